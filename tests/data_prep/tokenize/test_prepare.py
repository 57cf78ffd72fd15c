import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from streaming import StreamingDataset
from tokenizers import Tokenizer

from data_prep.tokenize.encoding import falls_into_valid, load_tokenizer
from modernbert_train.store.blocks import BLOCK_DOCUMENTS, BLOCK_TOKENS
from modernbert_train.store.manifest import (
    load_manifest,
    load_tokenizer_info,
)
from modernbert_train.store.verification import verify_store
from tests.helpers.stores import make_tokenizer
from tests.helpers.texts import (
    TRICKY_TEXTS,
    files_of,
    numbered_texts,
    run_tokenize,
    stored_documents,
    write_json_lines,
)

REPOSITORY = Path(__file__).parents[3]


def test_every_text_comes_back_and_every_token_is_counted(tokenizer_folder, tmp_path):
    texts = [*TRICKY_TEXTS, *numbered_texts(300)]
    file = write_json_lines(tmp_path / "x.jsonl", texts)
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}") == 0
    manifest = load_manifest(tmp_path / "store")
    tokenizer = load_tokenizer(tokenizer_folder / "tokenizer.json")
    expected = {"train": [], "valid": []}
    for text in texts:
        expected["valid" if falls_into_valid(text, 0.01) else "train"].append(text)
    assert expected["valid"]  # so that both splits are tested
    for name, split_texts in expected.items():
        split = manifest.sources["web"][name]
        documents = stored_documents(split.path)
        decoded = [tokenizer.decode(ids.tolist(), skip_special_tokens=False) for ids in documents]
        assert decoded == [unicodedata.normalize("NFC", text) for text in split_texts]
        encoded = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in split_texts]
        assert split.lengths().tolist() == encoded == [len(ids) for ids in documents]
        assert split.num_documents == len(split_texts)
        assert split.num_tokens == sum(encoded) == split.blocks()[:, 1].sum()
    specials = load_tokenizer_info(tokenizer_folder).special_ids
    assert not any(np.isin(ids, specials).any() for ids in stored_documents(tmp_path / "store/web/train"))
    assert verify_store(manifest) == []


def test_plain_streaming_reads_the_store(tokenizer_folder, tmp_path):
    texts = numbered_texts(300)
    file = write_json_lines(tmp_path / "x.jsonl", texts)
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}", options=options) == 0
    split = load_manifest(tmp_path / "store").sources["web"]["train"]
    dataset = StreamingDataset(local=str(split.path), batch_size=1, shuffle=False, validate_hash="sha1")
    assert len(dataset) == split.num_blocks == 3
    tokenizer = load_tokenizer(tokenizer_folder / "tokenizer.json")
    for block in (2, 0, 1):
        sample = dataset[block]
        assert [len(sample["lengths"]), len(sample["input_ids"])] == split.blocks()[block].tolist()
        end = sample["lengths"][0]
        first = tokenizer.decode(sample["input_ids"][:end].tolist(), skip_special_tokens=False)
        assert first == texts[block * BLOCK_DOCUMENTS]


def test_a_block_is_closed_by_documents_or_by_tokens(tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tokenizer_folder / "tokenizer.json")
    tokens_per_word = len(tokenizer.encode(" 8", add_special_tokens=False).ids)
    words = BLOCK_TOKENS // tokens_per_word + 1
    texts = ["x"] * 5 + [" 8" * words] + ["y"] * (BLOCK_DOCUMENTS + 3)
    file = write_json_lines(tmp_path / "x.jsonl", texts)
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}", options=options) == 0
    split = load_manifest(tmp_path / "store").sources["web"]["train"]
    assert split.blocks()[:, 0].tolist() == [6, BLOCK_DOCUMENTS, 3]
    assert split.blocks()[0, 1] >= BLOCK_TOKENS


def test_shards_are_cut_at_their_size(tokenizer_folder, tmp_path):
    file = write_json_lines(tmp_path / "x.jsonl", [f"{n} " + "z q " * 40_000 for n in range(16)])
    options = ("--workers", "1", "--valid-fraction", "0", "--shard-megabytes", "1")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}", options=options) == 0
    split = load_manifest(tmp_path / "store").sources["web"]["train"]
    sizes = [path.stat().st_size for path in sorted(split.path.glob("shard.*.mds"))]
    assert len(sizes) == len(split.shards) > 1
    assert max(sizes) <= 1 << 20
    assert verify_store(load_manifest(tmp_path / "store")) == []


@pytest.mark.parametrize(("num_words", "dtype"), [(65_531, "uint16"), (65_532, "uint32")])
def test_ids_have_the_smallest_dtype(tmp_path, num_words, dtype):
    """65,536 ids fit into 16 bits; one more id makes 65,600 rows."""
    info = make_tokenizer(tmp_path / "tokenizer", num_words)
    last = f"w{info.num_ids - 1}"
    file = write_json_lines(tmp_path / "x.jsonl", [f"w5 {last}", "w6"])
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", tmp_path / "tokenizer", f"web={file}", options=options) == 0
    manifest = load_manifest(tmp_path / "store")
    documents = stored_documents(manifest.sources["web"]["train"].path)
    assert manifest.token_dtype == dtype
    assert [ids.dtype for ids in documents] == [dtype, dtype]
    assert [ids.tolist() for ids in documents] == [[5, info.num_ids - 1], [6]]
    assert (tmp_path / "store/tokenizer_config.json").is_file()  # the tokenizer had none
    assert verify_store(manifest) == []


def test_bytes_do_not_depend_on_the_workers(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.tokenize.encoding.BATCH_CHARACTERS", 500)
    inputs = [
        f"web={write_json_lines(tmp_path / 'a.jsonl', numbered_texts(700))}",
        f"code={write_json_lines(tmp_path / 'b.jsonl.gz', TRICKY_TEXTS)},{tmp_path / 'a.jsonl'}",
    ]
    for workers in ("1", "2", "3"):
        options = ("--workers", workers, "--valid-fraction", "0.1", "--licence", "web=CC0")
        assert run_tokenize(tmp_path / workers, tokenizer_folder, *inputs, options=options) == 0
    one = files_of(tmp_path / "1")
    assert {"manifest.json", "tokenizer.json", "tokenizer_config.json", "web/valid/blocks.npy"} < set(one)
    assert files_of(tmp_path / "2") == one
    assert files_of(tmp_path / "3") == one


def test_held_out_documents_are_chosen_by_their_text(tokenizer_folder, tmp_path):
    texts = numbered_texts(2_000)
    splits = {}
    for name, order in (("a", texts), ("b", texts[::-1])):
        file = write_json_lines(tmp_path / f"{name}.jsonl", order + order[:50])
        options = ("--workers", "1", "--valid-fraction", "0.1")
        assert run_tokenize(tmp_path / name, tokenizer_folder, f"web={file}", options=options) == 0
        splits[name] = {
            split: {ids.tobytes() for ids in stored_documents(tmp_path / name / "web" / split)}
            for split in ("train", "valid")
        }
    assert splits["a"] == splits["b"]
    assert not splits["a"]["train"] & splits["a"]["valid"]
    assert 150 < len(splits["a"]["valid"]) < 250


def test_empty_documents_are_skipped_and_counted(tokenizer_folder, tmp_path, capsys):
    file = write_json_lines(tmp_path / "x.jsonl", ["", "x", "", "a longer one", ""])
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}", options=options) == 0
    manifest = load_manifest(tmp_path / "store")
    assert manifest.left_out == {"web": {"empty": 3}}
    assert manifest.sources["web"]["train"].num_documents == 2
    assert manifest.sources["web"]["train"].lengths()[0] == 1  # one token is a document
    out = capsys.readouterr().out
    assert "web: left out 3 empty" in out
    assert "web: no document is held out" in out


def test_the_manifest_says_where_the_store_comes_from(tokenizer_folder, tmp_path):
    file = write_json_lines(tmp_path / "x.jsonl", numbered_texts(5))
    options = ("--workers", "1", "--licence", "web=CC BY-SA 4.0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}", options=options) == 0
    manifest = load_manifest(tmp_path / "store")
    assert manifest.licences == {"web": "CC BY-SA 4.0"}
    assert manifest.tokenizer_fingerprint == load_tokenizer_info(tokenizer_folder).fingerprint
    assert manifest.tokenizer_fingerprint == load_tokenizer_info(tmp_path / "store").fingerprint
    assert f"--input web={file}" in manifest.command
    assert "--licence 'web=CC BY-SA 4.0'" in manifest.command


SHARED_TOKENIZER = REPOSITORY.parent / "shared/data/tokenizer"


@pytest.mark.skipif(not SHARED_TOKENIZER.is_dir(), reason="no ../shared/data beside the checkout")
def test_modernbert_tokenizer_as_it_stands(tmp_path):
    info = load_tokenizer_info(SHARED_TOKENIZER)
    assert (info.vocab_size, info.cls_id, info.sep_id, info.pad_id, info.mask_id) == (
        50_368, 50_281, 50_282, 50_283, 50_284,
    )  # fmt: skip
    lines = (SHARED_TOKENIZER / "goldens.jsonl").read_text(encoding="utf-8").split("\n")
    goldens = [json.loads(line) for line in lines if line]
    plain = Tokenizer.from_file(str(SHARED_TOKENIZER / "tokenizer.json"))
    assert [plain.encode(golden["text"]).ids for golden in goldens] == [golden["ids"] for golden in goldens]
    # The public tokenizer reads "[MASK]" in a text as the special token; a corpus that mentions it must not.
    goldens = [golden for golden in goldens if info.mask_id not in golden["ids"]]
    assert len(goldens) == 13
    file = write_json_lines(tmp_path / "x.jsonl", [golden["text"] for golden in goldens])
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", SHARED_TOKENIZER, f"web={file}", options=options) == 0
    stored = [ids.tolist() for ids in stored_documents(tmp_path / "store/web/train")]
    assert [[info.cls_id, *ids, info.sep_id] for ids in stored] == [golden["ids"] for golden in goldens]
    tokenizer = load_tokenizer(tmp_path / "store/tokenizer.json")
    for text in TRICKY_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)
        assert not set(ids) & {1, *range(50_279, 50_285)}  # <|padding|>, <|endoftext|>, [UNK] ... [MASK]
