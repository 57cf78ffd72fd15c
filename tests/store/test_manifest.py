import json

import numpy as np
import pytest

from data_prep.tokenize.writer import SplitWriter
from modernbert_train.store.blocks import BLOCK_DOCUMENTS
from modernbert_train.store.manifest import (
    load_manifest,
    load_tokenizer_info,
    token_dtype,
    write_manifest,
)
from modernbert_train.store.verification import verify_store
from tests.helpers.stores import edit_manifest, make_tokenizer, random_documents, restate_files

WEB, CODE = random_documents(400, seed=1, median=20), random_documents(20, seed=3)


def write_store(store, sources, shard_bytes=1 << 26):
    info = make_tokenizer(store)
    (store / "tokenizer_config.json").write_text("{}")
    splits = {source: {} for source in sources}
    for source, documents_of in sources.items():
        for name, documents in documents_of.items():
            writer = SplitWriter(store / source / name, "uint16", shard_bytes)
            for document in documents:
                writer.add(np.array(document, np.uint16))
            splits[source][name] = writer.finish()
    write_manifest(
        store, info, splits, {"web": "CC0"}, {source: {"empty": 2} for source in sources}, "a command"
    )
    return load_manifest(store)


@pytest.fixture
def store(tmp_path):
    sources = {"web": {"train": WEB, "valid": random_documents(3, seed=2)}, "code": {"train": CODE}}
    write_store(tmp_path / "store", sources, shard_bytes=10_000)
    return tmp_path / "store"


def test_a_manifest_written_is_read_back(store):
    manifest = load_manifest(store)
    assert list(manifest.sources) == ["web", "code"]
    assert list(manifest.sources["web"]) == ["train", "valid"]
    split = manifest.sources["web"]["train"]
    lengths, blocks = split.lengths(), split.blocks()
    expected = [len(document) for document in WEB]
    assert lengths.tolist() == expected
    assert (lengths.dtype, blocks.dtype) == (np.uint32, np.int64)
    in_blocks = [expected[first : first + BLOCK_DOCUMENTS] for first in range(0, 400, BLOCK_DOCUMENTS)]
    assert blocks.tolist() == [[len(block), sum(block)] for block in in_blocks]
    assert (split.num_documents, split.num_tokens, split.num_blocks) == (400, sum(expected), 4)
    assert len(split.shards) > 1
    assert (manifest.token_dtype, manifest.vocab_size) == ("uint16", 256)
    assert manifest.tokenizer_fingerprint == load_tokenizer_info(store).fingerprint
    assert manifest.licences == {"web": "CC0"}
    assert manifest.left_out == {"web": {"empty": 2}, "code": {"empty": 2}}
    assert (manifest.path, manifest.command) == (store, "a command")
    assert not list(store.glob("*.tmp"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda store: (store / "manifest.json").unlink(), "has no manifest.json: not a token store"),
        (lambda store: (store / "manifest.json").write_text("{"), "manifest.json is not valid JSON"),
        (
            lambda store: (store / "manifest.json").write_text("[]"),
            r"manifest\.json holds \[\], allowed: an object",
        ),
        (lambda store: edit_manifest(store, lambda m: m.update(version=3)), "has version 3, allowed: 2"),
        (
            lambda store: edit_manifest(store, lambda m: m.pop("vocab_size")),
            "manifest.json has no field vocab_size; restore",
        ),
        (
            lambda store: edit_manifest(store, lambda m: m.update(sources=[])),
            "sources is \\[\\], allowed: an object",
        ),
        (
            lambda store: (store / "web/train/lengths.npy").unlink(),
            r"lengths\.npy is missing, the manifest says",
        ),
        (
            lambda store: (store / "web/valid/blocks.npy").write_bytes(b"short"),
            r"web/valid/blocks\.npy has 5 bytes, the manifest says \d+",
        ),
        (
            lambda store: edit_manifest(
                store, lambda m: m["sources"]["code"]["splits"]["train"].update(num_documents=21)
            ),
            r"code/train: lengths\.npy has 20 rows, the manifest says 21",
        ),
        (
            lambda store: edit_manifest(
                store, lambda m: m["sources"]["web"]["splits"]["valid"].update(num_blocks=3)
            ),
            r"blocks\.npy has 1 rows, the manifest says 3",
        ),
        (
            lambda store: (store / "code/train/lengths.npy").write_bytes(
                b"x" * (store / "code/train/lengths.npy").stat().st_size
            ),
            r"code/train/lengths\.npy is damaged",
        ),
    ],
)
def test_a_damaged_store_is_refused(store, damage, message):
    damage(store)
    with pytest.raises(ValueError, match=message):
        load_manifest(store)


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"store: .*nowhere does not exist; make it with `python -m data_prep"
    ):
        load_manifest(tmp_path / "nowhere")


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def problems_after(store, damage):
    damage(store)
    return verify_store(load_manifest(store, ()))


def test_verify_finds_nothing_wrong_with_an_intact_store(store):
    assert verify_store(load_manifest(store)) == []


@pytest.mark.parametrize(
    ("damage", "path", "message"),
    [
        (
            lambda store: (store / "web/train/shard.00001.mds").write_bytes(
                (store / "web/train/shard.00001.mds").read_bytes()[:100]
            ),
            "web/train/shard.00001.mds",
            "damaged (100 bytes instead of",
        ),
        (
            lambda store: flip_last_byte(store / "code/train/shard.00000.mds"),
            "code/train/shard.00000.mds",
            "damaged (its sha1 differs",
        ),
        (
            lambda store: (store / "web/valid/shard.00000.mds").unlink(),
            "web/valid/shard.00000.mds",
            "missing",
        ),
        (
            lambda store: (store / "web/valid/index.json").write_text("?" * 406),
            "web/valid/index.json",
            "damaged (its sha256 differs",
        ),
        (lambda store: (store / "tokenizer_config.json").unlink(), "tokenizer_config.json", "missing"),
        (
            lambda store: make_tokenizer(store, num_words=250),
            "tokenizer.json",
            "not the tokenizer that the store was made with",
        ),
        (
            lambda store: flip_last_byte(store / "web/train/lengths.npy"),
            "web/train/lengths.npy",
            "damaged (its sha256 differs",
        ),
        (
            lambda store: edit_manifest(
                store, lambda m: m["sources"]["web"]["splits"]["valid"].update(num_tokens=7)
            ),
            "web/valid",
            "tokens in shards.npy, the manifest says 7",
        ),
        (
            lambda store: edit_text(store / "web/valid/index.json", '"samples": 1', '"samples": 2'),
            "web/valid/index.json",
            "damaged (its sha256 differs",
        ),
    ],
)
def test_verify_names_what_is_damaged(store, damage, path, message):
    problems = problems_after(store, damage)
    assert any(problem.startswith(str(store / path)) and message in problem for problem in problems), problems
    damaged_part = "/".join(path.split("/")[:2])  # the split, or a file of the store
    assert all(problem.startswith(f"{store / damaged_part}") for problem in problems), problems


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (lambda documents: documents[::-1], "not what the sidecars say"),
        (lambda documents: [documents[0][:-1], *documents[1:]], "not what the sidecars say"),
        (lambda documents: documents[:-16], "blocks, blocks.npy says"),
        (
            lambda documents: [[300] * len(documents[0]), *documents[1:]],
            "block 0 has id 300, the vocabulary ends at 256",
        ),
    ],
)
def test_verify_compares_the_shards_with_the_sidecars(tmp_path, rewrite, message):
    """Shards that are whole in themselves, but not those that the manifest counts."""
    for name, content in (("store", WEB), ("other", rewrite(WEB))):
        write_store(tmp_path / name, {"web": {"train": content}})
    ours, theirs = (tmp_path / name / "web/train" for name in ("store", "other"))
    (ours / "shard.00000.mds").write_bytes((theirs / "shard.00000.mds").read_bytes())
    index = json.loads((theirs / "index.json").read_text())
    index["shards"][0]["samples"] = 4
    (ours / "index.json").write_text(json.dumps(index))
    restate_files(tmp_path / "store")
    problems = verify_store(load_manifest(tmp_path / "store"))
    assert [p for p in problems if f"{ours / 'shard.00000.mds'}: " in p and message in p], problems


@pytest.mark.parametrize(("vocab_size", "dtype"), [(64, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_token_dtype(vocab_size, dtype):
    assert token_dtype(vocab_size) == dtype
