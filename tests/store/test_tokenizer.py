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
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"cls_token": "w10", "sep_token": {"content": "w11"}, "unk_token": "absent"})
    )
    info = load_tokenizer_info(tmp_path)
    assert (info.cls_id, info.sep_id, info.pad_id, info.mask_id, info.unk_id) == (10, 11, 3, 4, None)
    assert {10, 11} < set(info.special_ids)


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
