import json

import pytest
from tokenizers import Tokenizer

from modernbert_train.store.tokenizer import load_tokenizer_info, tokenizer_fingerprint
from tests.helpers.stores import make_tokenizer


def rewrite_json(source, target, edit=lambda content: content, **format):
    target.mkdir(exist_ok=True)
    content = edit(json.loads((source / "tokenizer.json").read_text()))
    (target / "tokenizer.json").write_text(json.dumps(content, **format))
    return tokenizer_fingerprint(target / "tokenizer.json")


def test_the_fingerprint_is_of_the_content_alone(tmp_path):
    info = make_tokenizer(tmp_path / "a")
    assert len(info.fingerprint) == 64
    for format in (
        {},
        {"indent": 7},
        {"sort_keys": True},
        {"separators": (",", ":")},
        {"ensure_ascii": False},
    ):
        assert rewrite_json(tmp_path / "a", tmp_path / "b", **format) == info.fingerprint
    for part in ("truncation", "padding", "post_processor"):
        assert (
            rewrite_json(tmp_path / "a", tmp_path / "b", lambda c, p=part: {**c, p: {}}) == info.fingerprint
        )
    lower = {"type": "Lowercase"}
    assert (
        rewrite_json(tmp_path / "a", tmp_path / "b", lambda c: {**c, "normalizer": lower}) != info.fingerprint
    )
    assert make_tokenizer(tmp_path / "c", num_words=250).fingerprint != info.fingerprint


def test_tokenizer_info(tmp_path):
    info = make_tokenizer(tmp_path, num_words=60)
    assert info == load_tokenizer_info(tmp_path / "tokenizer.json")
    assert (info.unk_id, info.cls_id, info.sep_id, info.pad_id, info.mask_id) == (0, 1, 2, 3, 4)
    assert (info.num_ids, info.vocab_size) == (65, 128)
    assert info.special_ids == (0, 1, 2, 3, 4)
    assert info.path == tmp_path


def test_specials_have_the_names_of_the_config(tmp_path):
    make_special(tmp_path, "w10", "w11", "w12")
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"sep_token": "w13", "pad_token": {"content": "w12", "lstrip": False}})
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"cls_token": "w10", "sep_token": {"content": "w11"}, "unk_token": "absent"})
    )
    info = load_tokenizer_info(tmp_path)
    # that of unknown text is the one that the model gives
    assert (info.cls_id, info.sep_id, info.pad_id, info.mask_id, info.unk_id) == (10, 11, 12, 4, 0)
    assert {10, 11, 12} < set(info.special_ids)


def make_special(folder, *tokens, names=()):
    """Make a tokenizer with more special tokens: some of its words, and some new ones."""
    make_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([*tokens, *names])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("renamed", "roles"),
    [
        # roberta-base and xlm-roberta-base name no special token in any file
        (
            {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>", "[UNK]": "<unk>"},
            (1, 2, 3, 4, 0),
        ),
        (
            {"[CLS]": "<cls>", "[SEP]": "<eos>", "[PAD]": "<pad>", "[MASK]": "<mask>", "[UNK]": "<unk>"},
            (1, 2, 3, 4, 0),
        ),
        ({"[PAD]": "<pad>"}, (1, 2, 3, 4, 0)),
    ],
)
def test_specials_that_no_file_names_are_found(tmp_path, renamed, roles):
    make_tokenizer(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    for old, new in renamed.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    info = load_tokenizer_info(tmp_path)
    assert (info.cls_id, info.sep_id, info.pad_id, info.mask_id, info.unk_id) == roles


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"sep_token": "[MASK]"}', r"sep_token and mask_token are both '\[MASK\]'; name a token of its own"),
        ('{"unk_token": "[MASK]"}', r"mask_token and unk_token are both '\[MASK\]'"),
        (
            '{"sep_token": "w9"}',
            "sep_token is 'w9', which is an ordinary word of texts; name a token that no text contains",
        ),
        ('{"pad_token": [null]}', r'pad_token is \[null\]; it must be a token such as "\[X\]", or an object'),
        ('{"cls_token": {"": 1}}', r'cls_token is {"": 1}; it must be a token'),
        ('{"cls_token": {"content": 7}}', r'cls_token is {"content": 7}; it must be a token'),
        ('{"mask_token": true}', "mask_token is true; it must be a token"),
        ("[]", "tokenizer_config.json must hold an object, holds list; repair it"),
        ("[" * 100_000, "tokenizer_config.json is not valid JSON"),
        ("{", "tokenizer_config.json is not valid JSON"),
    ],
)
def test_bad_configs_are_refused_in_a_line(tmp_path, config, message):
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer_info(tmp_path)
    assert "\n" not in str(error.value)


def test_special_tokens_may_be_written_as_objects(tmp_path):
    make_tokenizer(tmp_path)
    token = {"content": "[MASK]", "lstrip": True, "normalized": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": token, "cls_token": None}))
    assert load_tokenizer_info(tmp_path).mask_id == 4


@pytest.mark.parametrize("name", ["vocab.txt", "spm.model", "vocab.json"])
def test_the_command_that_converts_another_form_is_named(tmp_path, name):
    (tmp_path / name).touch()
    message = (
        rf"has {name} and no tokenizer.json; convert it with `python -m data_prep tokenizer NEW_FOLDER --fit"
    )
    with pytest.raises(ValueError, match=message):
        load_tokenizer_info(tmp_path)


def test_an_id_far_beyond_the_others_is_refused(tmp_path):
    make_tokenizer(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(
        text.replace('"w9": 9,', '"w9": 4000000000,').replace('"w9":9,', '"w9":4000000000,')
    )
    with pytest.raises(
        ValueError, match="has 256 tokens and the id 4,000,000,000; number its tokens without"
    ):
        load_tokenizer_info(tmp_path)


def test_unused_and_missing_ids_are_special(tmp_path):
    make_tokenizer(tmp_path, num_words=60)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["[unused0]", "<unused1>", "unused2", "plain"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    del content["model"]["vocab"]["w7"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    info = load_tokenizer_info(tmp_path)
    assert info.special_ids == (0, 1, 2, 3, 4, 7, 64, 65)
    assert info.num_ids == 68


def test_bad_tokenizers_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"tokenizer: .*nowhere does not exist; name a folder with tokenizer\.json"
    ):
        load_tokenizer_info(tmp_path / "nowhere")
    (tmp_path / "bpe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bpe\.json must be named tokenizer\.json"):
        load_tokenizer_info(tmp_path / "bpe.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a tokenizer \("):
        load_tokenizer_info(tmp_path)
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "<mask>", "sep_token": "</s>"}')
    with pytest.raises(
        ValueError, match=r'has no token for sep, mask; name them .* \(as "sep_token"\) or train'
    ):
        load_tokenizer_info(tmp_path)
