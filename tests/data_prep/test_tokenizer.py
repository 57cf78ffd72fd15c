import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from data_prep.cli import main
from data_prep.tokenize.encoding import load_tokenizer
from data_prep.tokenizer import HeldBackText, save_tokenizer, train_tokenizer
from modernbert_train.store.tokenizer import load_tokenizer_info, tokenizer_fingerprint
from tests.helpers.texts import TRAINING_TEXTS, TRICKY_TEXTS, write_json_lines

SHARED_TOKENIZER = Path(__file__).parents[3] / "shared/data/tokenizer"
SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_decoding_gives_the_text_back(tokenizer_folder, text):
    tokenizer = load_tokenizer(tokenizer_folder / "tokenizer.json")
    assert tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=False) == unicodedata.normalize(
        "NFC", text
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_gives_any_text_back(tokenizer_folder, text):
    tokenizer = load_tokenizer(tokenizer_folder / "tokenizer.json")
    ids = ids_of(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)
    assert not set(ids) & set(load_tokenizer_info(tokenizer_folder).special_ids)


@pytest.mark.parametrize("special", SPECIALS)
def test_special_strings_in_a_text_are_text(tokenizer_folder, special):
    plain = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    special_id = plain.token_to_id(special)
    assert special_id in ids_of(plain, f"a {special} b")  # so the test below can fail
    ids = ids_of(load_tokenizer(tokenizer_folder / "tokenizer.json"), f"a {special} b")
    assert special_id not in ids
    assert len(ids) > 3


def test_truncation_and_padding_of_a_tokenizer_are_switched_off(tokenizer_folder, tmp_path):
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "the cat sat on the mat and went on"
    ids = ids_of(load_tokenizer(tmp_path / "tokenizer.json"), text)
    assert ids == ids_of(load_tokenizer(tokenizer_folder / "tokenizer.json"), text)
    assert len(ids) > 4
    assert tokenizer_fingerprint(tmp_path / "tokenizer.json") == tokenizer_fingerprint(
        tokenizer_folder / "tokenizer.json"
    )


def test_specials_have_the_ids_that_training_reads(tokenizer_folder):
    info = load_tokenizer_info(tokenizer_folder)
    assert (info.unk_id, info.cls_id, info.sep_id, info.pad_id, info.mask_id) == (0, 1, 2, 3, 4)
    assert info.special_ids == (0, 1, 2, 3, 4)
    assert info.num_ids == 400
    assert info.vocab_size == 448  # the next multiple of 64


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_auto_tokenizer_agrees(tokenizer_folder, text):
    auto = AutoTokenizer.from_pretrained(tokenizer_folder)
    ours = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    assert auto(text)["input_ids"] == ours.encode(text).ids
    ids = ours.encode(text, add_special_tokens=False).ids
    assert auto(text)["input_ids"] == [auto.cls_token_id, *ids, auto.sep_token_id]
    assert auto(text, "the mat")["input_ids"] == ours.encode(text, "the mat").ids


def test_auto_tokenizer_knows_the_specials(tokenizer_folder):
    auto = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert [auto.unk_token, auto.cls_token, auto.sep_token, auto.pad_token, auto.mask_token] == SPECIALS
    assert auto.model_max_length == 8192
    assert auto.is_fast
    a, b = ids_of(auto.backend_tokenizer, "a"), ids_of(auto.backend_tokenizer, " b")
    # the mask takes the space before it: it stands for a word that begins with one
    assert auto("a [MASK] b", add_special_tokens=False)["input_ids"] == [*a, auto.mask_token_id, *b]
    assert auto.decode(auto("a , b .", add_special_tokens=False)["input_ids"]) == "a , b ."


def test_saved_again_by_transformers_the_tokenizer_is_the_same(tokenizer_folder, tmp_path):
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(tmp_path)
    before, after = load_tokenizer_info(tokenizer_folder), load_tokenizer_info(tmp_path)
    assert after.fingerprint == before.fingerprint
    assert after.special_ids == before.special_ids


def test_training_is_deterministic(tmp_path):
    for name in "ab":
        save_tokenizer(train_tokenizer(TRAINING_TEXTS, 320), tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_command(tmp_path, capsys):
    file = write_json_lines(tmp_path / "x.jsonl.gz", TRAINING_TEXTS, field="body")
    out = str(tmp_path / "out")
    assert main(["tokenizer", out, "--input", str(file), "--vocab-size", "300", "--text-field", "body"]) == 0
    assert f"{len(TRAINING_TEXTS)} documents" in capsys.readouterr().out
    assert load_tokenizer_info(out).num_ids == 300
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["mask_token"] == "[MASK]"


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [(["x"], "100", "vocab-size: 100 must be at least 261"), ([], "300", "input: no document to train on")],
)
def test_command_errors(tmp_path, capsys, texts, vocab_size, message):
    file = write_json_lines(tmp_path / "x.jsonl", texts)
    assert main(["tokenizer", str(tmp_path / "out"), "--input", str(file), "--vocab-size", vocab_size]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def byte_level(vocabulary, specials=()):
    """Build a tokenizer with all bytes, some merges and its own special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *vocabulary]
    tokenizer = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(tokens)},
            [tuple(token) for token in vocabulary if len(token) == 2],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def test_fitting_keeps_every_id_and_adds_what_is_missing(tmp_path, capsys):
    before = byte_level(["th", "ca"], ["<s>", "[MASK]"])
    before.enable_truncation(5)
    before.save(str(tmp_path / "tokenizer.json"))
    assert main(["tokenizer", "out", "--fit", str(tmp_path / "tokenizer.json")]) == 0
    out = capsys.readouterr().out
    assert "extended from" in out
    assert "note" not in out
    after = Tokenizer.from_file("out/tokenizer.json")
    old, new = before.get_vocab(), after.get_vocab()
    assert {token: new[token] for token in old} == old
    assert [new[token] for token in ("[MASK]", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[unused0]")] == [
        259, 260, 261, 262, 263, 264,
    ]  # fmt: skip
    assert len(new) == 320
    info = load_tokenizer_info("out")
    assert (info.num_ids, info.vocab_size, info.mask_id) == (320, 320, 259)
    assert after.encode("the cat").ids[0] == info.cls_id
    plain, fitted = byte_level(["th", "ca"]), load_tokenizer(Path("out/tokenizer.json"))
    for text in TRICKY_TEXTS:
        ids = ids_of(fitted, text)
        assert ids == ids_of(plain, text)
        assert fitted.decode(ids, skip_special_tokens=False) == text


def test_fitting_twice_changes_nothing(tmp_path):
    byte_level(["th"]).save(str(tmp_path / "tokenizer.json"))
    assert main(["tokenizer", "a", "--fit", str(tmp_path)]) == 0
    assert main(["tokenizer", "b", "--fit", "a"]) == 0
    assert load_tokenizer_info("a").fingerprint == load_tokenizer_info("b").fingerprint
    auto = AutoTokenizer.from_pretrained("b")
    assert [auto.unk_token, auto.cls_token, auto.sep_token, auto.pad_token, auto.mask_token] == SPECIALS


def test_fitting_mends_what_tokenize_refuses(tmp_path, capsys):
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate([*SPECIALS, *"acgt"])}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    texts = write_json_lines(tmp_path / "dna.jsonl", ["acgt" * 20] * 3)
    tokenize = ["tokenize", "store", "--workers", "1", "--input", f"dna={texts}", "--tokenizer"]
    assert main([*tokenize, str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "[UNK], [CLS], [SEP], [PAD], [MASK] are in its vocabulary but not among its special" in error
    assert error.endswith(f"run `python -m data_prep tokenizer OUT --fit {tmp_path}` and use OUT")
    assert not Path("store").exists()
    assert main(["tokenizer", "fitted", "--fit", str(tmp_path)]) == 0
    assert main([*tokenize, "fitted"]) == 0
    assert AutoTokenizer.from_pretrained("fitted")("a[MASK]")["input_ids"] == [1, 5, 4, 2]


def word_level(*tokens, unk=None):
    return Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=unk))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: word_level("a", "[UNK]", unk="[UNK]"),
            "note: 17 of the 17 characters of 'Ein Wort, two words.' are",
        ),
        (
            lambda: Tokenizer(models.BPE({"a": 0}, [])),
            "drops characters that its vocabulary lacks, such as 'ꙮ'",
        ),
        (
            lambda: Tokenizer(models.Unigram([("a", -1.0)], None)),
            "cannot encode 'ꙮ' (Encountered an unknown token",
        ),
    ],
)
def test_fitting_says_when_text_is_lost(tmp_path, capsys, build, message):
    build().save(str(tmp_path / "tokenizer.json"))
    assert main(["tokenizer", "out", "--fit", str(tmp_path)]) == 0
    assert message in capsys.readouterr().out


def test_a_normalizer_loses_no_text(tmp_path, capsys):
    tokenizer = byte_level(["th"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert main(["tokenizer", "out", "--fit", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "special tokens: " in out
    assert "note" not in out
    assert "warning" not in out


def test_fitting_uses_the_special_tokens_that_are_there(tmp_path, capsys):
    """Those of RoBERTa, which no file names, and one that is only named."""
    before = byte_level(["th", "<mask>"], ["<s>", "<pad>", "</s>", "<unk>"])
    before.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|pad|>"}}')
    assert main(["tokenizer", "out", "--fit", str(tmp_path)]) == 0
    assert "special tokens: <unk> <s> </s> <|pad|> <mask>" in capsys.readouterr().out
    ids, info = before.get_vocab(), load_tokenizer_info("out")
    assert (info.cls_id, info.sep_id, info.mask_id) == (ids["<s>"], ids["</s>"], ids["<mask>"])
    assert info.pad_id == len(ids)
    assert not set(SPECIALS) & set(Tokenizer.from_file("out/tokenizer.json").get_vocab())
    auto = AutoTokenizer.from_pretrained("out")
    assert auto("th")["input_ids"] == [info.cls_id, ids["th"], info.sep_id]
    assert auto.mask_token_id == info.mask_id


BERT_WORDS = [*SPECIALS, "the", "cat", "##s", ".", "c", "##a", "##t"]


@pytest.mark.parametrize(("words", "lowercase"), [(BERT_WORDS, True), ([*BERT_WORDS, "The"], False)])
def test_a_vocabulary_of_bert_is_converted(tmp_path, words, lowercase):
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    assert main(["tokenizer", "out", "--fit", str(tmp_path)]) == 0
    info = load_tokenizer_info("out")
    assert (info.unk_id, info.cls_id, info.sep_id, info.pad_id, info.mask_id) == (0, 1, 2, 3, 4)
    the = words.index("the" if lowercase else "The")
    assert AutoTokenizer.from_pretrained("out")("The cats.")["input_ids"] == [1, the, 6, 7, 8, 2]


def test_a_vocabulary_with_merges_is_converted(tmp_path):
    byte_level(["th"], []).model.save(str(tmp_path))
    assert {"vocab.json", "merges.txt"} <= {path.name for path in tmp_path.iterdir()}
    assert main(["tokenizer", "out", "--fit", str(tmp_path / "vocab.json")]) == 0
    fitted, plain = load_tokenizer(Path("out/tokenizer.json")), byte_level(["th"])
    for text in TRICKY_TEXTS:
        assert ids_of(fitted, text) == ids_of(plain, text)


def test_a_sentencepiece_model_needs_its_library(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_prep.tokenizer.find_spec", lambda name: None)
    (tmp_path / "spm.model").touch()
    assert main(["tokenizer", "out", "--fit", str(tmp_path)]) == 2
    assert "install it with `pip install sentencepiece`" in capsys.readouterr().err


def test_a_trained_tokenizer_is_measured_on_text_that_was_held_back(tmp_path, capsys):
    texts = [f"text number {number} of some" for number in range(500)]
    for number, name in enumerate(("few", "many")):
        write_json_lines(tmp_path / f"{name}.jsonl", texts[: 50 + 450 * number])
        assert main(["tokenizer", name, "--input", f"{name}.jsonl", "--vocab-size", "300"]) == 0
    few, many = (line for line in capsys.readouterr().out.splitlines() if " characters of " in line)
    assert (
        "of the text it was trained on: 0.00% of the tokens are [UNK], 0.00% of the characters are lost"
        in few
    )
    assert f"of {sum(map(len, texts[99::100])):,} characters of text that was held back: " in many


def test_a_long_text_is_trained_on_piece_by_piece(monkeypatch):
    texts = ["".join(TRAINING_TEXTS) * 5]
    whole = train_tokenizer(texts, 320).to_str()
    monkeypatch.setattr("data_prep.tokenizer.PIECE_CHARACTERS", 64)
    monkeypatch.setattr("data_prep.tokenizer.HOLD_BACK_EVERY", 10**9)
    pieces = list(HeldBackText().pass_on([texts[0], iter([texts[0][:7], texts[0][7:]])]))
    assert max(map(len, pieces)) <= 64
    assert "".join(pieces) == texts[0] * 2
    assert train_tokenizer(HeldBackText().pass_on(texts), 320).to_str() == whole


def test_fitting_errors(tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{}")
    gaps = Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    gaps.save(str(tmp_path / "gaps.json"))
    for options, message in {
        ("--fit", "broken.json"): "fit: broken.json cannot be read as a tokenizer",
        ("--fit", "none.json"): "fit: none.json cannot be read as a tokenizer",
        ("--fit", "gaps.json"): "fit: gaps.json has 2 ids up to 7; fill the gaps",
        (): "tokenizer: use either --input (texts to train on) or --fit",
        ("--fit", "gaps.json", "--input", "x"): "tokenizer: use either",
    }.items():
        assert main(["tokenizer", "out", *options]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


@pytest.mark.skipif(not SHARED_TOKENIZER.is_dir(), reason="no ../shared/data beside the checkout")
def test_fitting_olmos_tokenizer_gives_modernberts_ids(capsys):
    assert (
        main(["tokenizer", "out", "--fit", str(SHARED_TOKENIZER / "allenai_gpt-neox-olmo-dolma-v1_5.json")])
        == 0
    )
    fitted = Tokenizer.from_file("out/tokenizer.json")
    lines = (SHARED_TOKENIZER / "goldens.jsonl").read_text(encoding="utf-8").split("\n")
    goldens = [json.loads(line) for line in lines if line]
    assert [fitted.encode(golden["text"]).ids for golden in goldens] == [golden["ids"] for golden in goldens]
    assert load_tokenizer_info("out").num_ids == 50_304  # ModernBERT has 64 unused ids more


@pytest.mark.parametrize(
    ("option", "text"), [("documents", "web=line"), ("delimiter", "web=;"), ("encoding", "web=latin-1")]
)
def test_a_tokenizer_has_no_sources(tmp_path, capsys, option, text):
    (tmp_path / "a.txt").write_text("some text\n")
    command = ["tokenizer", str(tmp_path / "out"), "--input", str(tmp_path / "a.txt")]
    assert main([*command, f"--{option}", text]) == 2
    value = text.partition("=")[2]
    assert (
        f"{option}: '{text}' is for a source 'web', and a tokenizer has none; write --{option} '{value}'"
        in (capsys.readouterr().err)
    )
    assert main([*command[:-1], f"web={tmp_path}/a.txt"]) == 2
    assert "is for a source 'web'" in capsys.readouterr().err


def test_an_existing_tokenizer_is_replaced_only_when_told(tmp_path, capsys):
    rows = [{"title": f"word{number}", "body": "a long text " * 40} for number in range(120)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "tokenizer",
        str(tmp_path / "out"),
        "--input",
        str(tmp_path / "a.jsonl"),
        "--vocab-size",
        "300",
    ]
    assert main([*command, "--text-field", "title"]) == 0
    shown = capsys.readouterr()
    # At the start and, after what may be hours, at the end.
    for text in (shown.err, shown.out):
        assert "warning: input: the text is read from 'title'" in text
    before = (tmp_path / "out/tokenizer.json").read_bytes()
    assert main([*command, "--text-field", "body"]) == 2
    assert "tokenizer.json exists, and a store that was made with it would not fit" in capsys.readouterr().err
    assert (tmp_path / "out/tokenizer.json").read_bytes() == before
    assert main([*command, "--text-field", "body", "--overwrite"]) == 0
    assert (tmp_path / "out/tokenizer.json").read_bytes() != before
