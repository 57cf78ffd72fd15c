"""Text that a tokenizer loses is measured, warned of, and stops the command; errors of the library name the row."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from data_prep.cli import main
from data_prep.tokenize.encoding import BatchEncoder
from data_prep.tokenize.measuring import EXCERPT_CHARACTERS, FIRST_CHARACTERS, SAMPLED, TextMeter
from data_prep.tokenizer import measure_texts
from modernbert_train.store.lost_text import MAX_LOST_TEXT, WARN_LOST_TEXT
from modernbert_train.store.manifest import load_manifest
from modernbert_train.store.tokenizer import TokenizerError, tokenizer_errors
from tests.helpers.stores import edit_manifest
from tests.helpers.texts import run_tokenize, write_json_lines

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPTIONS = ("--workers", "1", "--valid-fraction", "0")
LATIN, KOREAN = "the river is wide", "강은 넓고 다리는 오래되었다"


def ids_of(tokens):
    return {token: number for number, token in enumerate(tokens)}


def bpe(unk=None):
    tokenizer = Tokenizer(models.BPE(ids_of([*SPECIALS, *LETTERS]), [], unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def word_piece():
    vocabulary = ids_of([*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def unigram(unk_id):
    tokenizer = Tokenizer(models.Unigram([(token, -1.0) for token in [*SPECIALS, "▁", *LETTERS]], unk_id))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def save(tokenizer, folder=Path("tok")):
    folder.mkdir(exist_ok=True)
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tokenize(tokenizer, texts, *options, store="store"):
    file = Path("x.jsonl")
    if not file.exists():
        write_json_lines(file, texts)
    return run_tokenize(Path(store), save(tokenizer), f"web={file}", options=(*OPTIONS, *options))


@pytest.mark.parametrize(
    ("build", "texts", "message"),
    [
        (
            bpe,
            [KOREAN, LATIN],
            r"loses 46.2% of the text, more than 20.0%: 0.00% of the tokens are \[UNK\], 46.1",
        ),
        (word_piece, [KOREAN, LATIN], r"loses \d+.\d% of the text, more than 20.0%: "),
        (lambda: unigram(0), [KOREAN, LATIN], "loses 46.2% of the text"),
        # whole documents become a token or two
        (word_piece, ["ab" * 500_001], r"\(its first 1 documents\): the tokenizer loses 100.0% of the text"),
        (
            lambda: unigram(0),
            ["漢字" * 30_000],
            "100.00% of the characters are lost; 3.33e-05 tokens per character",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_stops_the_command(capsys, build, texts, message):
    assert tokenize(build(), texts) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: source web")
    assert re.search(message, error), error
    assert error.endswith("or allow it with --max-lost-text")
    assert not Path("store/manifest.json").exists()


def test_it_goes_on_where_it_stopped_if_that_is_allowed(capsys, monkeypatch):
    assert tokenize(bpe(), [KOREAN, LATIN]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(BatchEncoder, "__call__", lambda *_: pytest.fail("tokenized again"))
        assert tokenize(bpe(), [KOREAN, LATIN], "--max-lost-text", "0.5") == 0
    captured = capsys.readouterr()
    assert "warning: source web: the tokenizer loses 46.2% of the text" in captured.err
    assert (
        "web: 0.00% of the tokens are [UNK], 46.15% of the characters are lost; 0.438 tokens per"
        in captured.out
    )
    counts = load_manifest("store").texts["web"]
    assert (counts.characters, counts.tokens, counts.lost_characters) == (32, 14, 12)
    assert counts.bytes == len((KOREAN + LATIN).encode())
    assert main(["inspect", "store"]) == 0
    captured = capsys.readouterr()
    assert "web: text: 0.00% of the tokens are [UNK], 46.15% of the characters" in captured.out
    assert "warning: source web: the tokenizer loses 46.2%" in captured.err


def test_a_store_of_an_earlier_version_was_not_measured(capsys):
    assert tokenize(bpe("[UNK]"), [LATIN]) == 0
    edit_manifest(Path("store"), lambda manifest: manifest["sources"]["web"].pop("text"))
    assert load_manifest("store").texts == {"web": None}
    assert main(["inspect", "store"]) == 0
    assert "web: text: not measured" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan"])
def test_the_bound_is_a_share(capsys, value):
    assert tokenize(bpe("[UNK]"), [LATIN], "--max-lost-text", value) == 2
    assert f"max-lost-text: {value} must be between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("normalizer", "text", "deleted"),
    [
        (None, LATIN, 0),
        (normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), "THE ﬁne ＲＩＶＥＲ Ⅳ", 0),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "une tempête déjà", 3),
        (normalizers.Replace("river", ""), LATIN, 5),
    ],
)
def test_a_normalizer_loses_nothing_but_what_it_deletes(normalizer, text, deleted):
    tokenizer = bpe("[UNK]")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    counts = measure_texts(save(tokenizer), [text])
    assert (counts.lost_characters, counts.unknown_tokens, counts.deleted_characters) == (0, 0, deleted)
    assert f"the normalizer deletes {counts.deleted_share:.2%}" in counts.describe() or not deleted


@pytest.mark.parametrize("decoder", [decoders.ByteLevel(), None])
def test_bytes_lose_nothing(decoder):
    tokenizer = Tokenizer(models.BPE(ids_of(sorted(pre_tokenizers.ByteLevel.alphabet())), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    if decoder is not None:
        tokenizer.decoder = decoder
    assert measure_texts(save(tokenizer), [KOREAN, "\x00 [UNK] 🤖"]).lost_characters == 0


def test_a_bounded_share_of_the_text_is_sampled():
    tokenizer, excerpts = bpe("[UNK]"), []
    meter = TextMeter(tokenizer, 0)
    measure = meter._measure
    meter._measure = lambda text: excerpts.append(text) or measure(text)
    texts = [f"{number} " * 1_000 for number in range(2_000)]
    num_characters = sum(map(len, texts))
    for first in range(0, 2_000, 7):
        meter.add(texts[first : first + 7], 0, np.zeros(3))
    assert meter.counts.characters == num_characters
    assert 0 <= sum(map(len, excerpts)) - num_characters // SAMPLED - FIRST_CHARACTERS <= EXCERPT_CHARACTERS
    assert len({excerpt.split()[1] for excerpt in excerpts} & {str(n) for n in range(1_000, 2_000)}) > 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: unigram(None),
            "cannot encode 'ꙮ' (Encountered an unknown token but `unk_id` is missing); let the",
        ),
        (
            lambda: Tokenizer(models.WordLevel(ids_of([*SPECIALS, "a"]), unk_token="gone")),
            "cannot encode 'ꙮ' (",
        ),
    ],
)
def test_a_model_that_raises_is_found_out_beforehand(capsys, build, message):
    assert tokenize(build(), [LATIN]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: tokenizer: tok/tokenizer.json ")
    assert message in error
    assert not Path("store").exists()


def test_documents_that_cannot_be_encoded_are_left_out_on_request(capsys, monkeypatch):
    texts = ["a river", f"a {KOREAN}", "wide", "漢" * 100]
    assert tokenize(unigram(None), texts, "--on-bad-row", "skip") == 0
    captured = capsys.readouterr()
    assert "warning: tokenizer: tok/tokenizer.json cannot encode 'ꙮ'" in captured.err
    assert (
        "left out: x.jsonl:2: the tokenizer cannot encode this document (Encountered an unknown"
        in captured.err
    )
    assert load_manifest("store").left_out == {"web": {"not_encodable": 2}}
    assert load_manifest("store").sources["web"]["train"].num_documents == 2
    monkeypatch.setattr("data_prep.tokenize.encoding.BATCH_CHARACTERS", 50)  # the last text is a long one
    assert tokenize(unigram(None), texts, "--on-bad-row", "skip", store="long") == 0
    assert Path("long/web/train/lengths.npy").read_bytes() == Path("store/web/train/lengths.npy").read_bytes()


def test_a_model_that_drops_characters_is_warned_of(capsys):
    assert tokenize(bpe(), [LATIN]) == 0
    assert (
        "warning: tokenizer: tok/tokenizer.json drops characters that its vocabulary lacks"
        in capsys.readouterr().err
    )


def test_a_panic_of_the_library_is_an_error_of_a_line():
    tokenizer = bpe()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    content = json.loads(tokenizer.to_str())
    content["post_processor"]["special_tokens"] = {}
    broken = Tokenizer.from_str(json.dumps(content))
    with pytest.raises(BaseException) as panic:  # noqa: PT011
        broken.encode("a")
    assert not isinstance(panic.value, Exception)
    with pytest.raises(TokenizerError, match=r"^no \(.+\)$"), tokenizer_errors("no"):
        broken.encode("a")
    with pytest.raises(KeyboardInterrupt), tokenizer_errors("no"):
        raise KeyboardInterrupt


def test_help_states_both_bounds(capsys):
    main(["tokenize", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert f"(default: {MAX_LOST_TEXT:g}); above {WARN_LOST_TEXT:g} it warns" in words
