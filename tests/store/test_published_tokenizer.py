"""What an exported model demands of its tokenizer."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from modernbert_train.store.published_tokenizer import (
    check_tokenizer,
    published_tokenizer,
    tokenizer_problems,
)
from modernbert_train.store.tokenizer import TokenizerInfo, load_tokenizer_info

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def wordpiece(added=SPECIALS) -> Tokenizer:
    vocab = {token: number for number, token in enumerate([*SPECIALS, "a", "x", "text", "##t"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(added))
    return tokenizer


def byte_level(*, add_prefix_space: bool = False) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, config: dict[str, object] | None = None) -> TokenizerInfo:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return load_tokenizer_info(folder)


def load_published(info: TokenizerInfo) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(published_tokenizer(info)))


@pytest.mark.parametrize("missing", ["[MASK]", "[UNK]", *SPECIALS[1:4]])
def test_special_tokens_must_be_added_before_a_store_is_made(tmp_path, missing):
    info = save(wordpiece([token for token in SPECIALS if token != missing]), tmp_path)
    (problem,) = tokenizer_problems(info)
    assert f"{tmp_path}: {missing} is in its vocabulary but not among its special added tokens" in problem
    assert problem.endswith(f"run `python -m data_prep tokenizer OUT --fit {tmp_path}` and use OUT")
    assert tokenizer_problems(info, is_tokenized=True) == []
    assert load_published(info).encode(f"a {missing}").ids[2] == wordpiece().token_to_id(missing)


def test_an_added_token_that_is_not_special_is_taken_for_the_mask_in_every_text(tmp_path):
    tokenizer = wordpiece([token for token in SPECIALS if token != "[MASK]"])
    tokenizer.add_tokens([AddedToken("[MASK]", special=False)])
    info = save(tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"\[MASK\] is in its vocabulary but not among its special"):
        check_tokenizer(info)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"do_lower_case": False},
            "do_lower_case is false in tokenizer_config.json and true in tokenizer.json, so",
        ),
        (
            {"tokenize_chinese_chars": False},
            "tokenize_chinese_chars is false in tokenizer_config.json and true",
        ),
        ({"do_lower_case": True, "strip_accents": None}, None),
        ({"add_prefix_space": True}, None),  # read by tokenizers of bytes only
    ],
)
def test_wordpiece_configs(tmp_path, config, message):
    problems = tokenizer_problems(save(wordpiece(), tmp_path, config), is_tokenized=True)
    assert [message in problem for problem in problems] == ([] if message is None else [True])


@pytest.mark.parametrize("in_sequence", [False, True])
@pytest.mark.parametrize("in_json", [False, True])
@pytest.mark.parametrize("in_config", [None, False, True])
def test_the_prefix_space_must_be_the_same_in_both_files(tmp_path, in_sequence, in_json, in_config):
    tokenizer = byte_level(add_prefix_space=in_json)
    if in_sequence:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), tokenizer.pre_tokenizer])
    info = save(tokenizer, tmp_path, {"add_prefix_space": in_config})
    problems = tokenizer_problems(info)
    assert len(problems) == (in_config is not None and in_config != in_json)
    assert all("add_prefix_space is" in problem for problem in problems)


def test_dropout_is_refused_before_a_store_is_made_and_never_published(tmp_path):
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.5
    info = save(tokenizer, tmp_path)
    (problem,) = tokenizer_problems(info)
    assert "model.dropout is 0.5, so the ids of a text change from one time to the next; run" in problem
    assert published_tokenizer(info)["model"]["dropout"] is None


@pytest.mark.parametrize(
    "edit",
    [
        {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}},
        {
            "padding": {
                "strategy": {"Fixed": 40},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 3,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            }
        },
        {"post_processor": None},
        {
            "post_processor": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
        # Transformers' own error for it is a panic in Rust, past `except Exception`.
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "1:30", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {},
            }
        },
    ],
    ids=["truncation", "padding", "no template", "template of offsets", "template of an undefined token"],
)
def test_texts_are_published_whole_and_between_cls_and_sep(tmp_path, edit):
    info = save(byte_level(), tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | edit))
    assert tokenizer_problems(info) == []
    ids = load_published(info).encode("six words are in this text").ids
    assert ids == [info.cls_id, *byte_level().encode("six words are in this text").ids, info.sep_id]


def test_a_template_of_its_own_is_kept(tmp_path):
    tokenizer = byte_level()
    cls, sep = ("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls)
    info = save(tokenizer, tmp_path)
    a = tokenizer.token_to_id("a")
    assert load_published(info).encode("a", "a").ids == [cls[1], a, sep[1], sep[1], a, sep[1]]


def test_a_tokenizer_that_lacks_nothing_is_published_unchanged(tmp_path):
    tokenizer = wordpiece()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    info = save(tokenizer, tmp_path)
    assert published_tokenizer(info) == json.loads((tmp_path / "tokenizer.json").read_text())


def test_a_tokenizer_without_unknown_token_is_not_asked_about_what_it_cannot_encode(tmp_path):
    tokenizer = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate([*SPECIALS[1:], *"acgt"])})
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(list(SPECIALS[1:]))
    assert tokenizer_problems(save(tokenizer, tmp_path)) == []
