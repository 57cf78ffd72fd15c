import json

import numpy as np
import pytest
from streaming import MDSWriter
from streaming.base.format import reader_from_json
from streaming.base.hashing import get_hash

from data_prep.tokenize.writer import SplitWriter
from modernbert_train.store.blocks import BLOCK_DOCUMENTS, BLOCK_TOKENS
from modernbert_train.store.mds import digest, read_block, read_samples, read_shards


def blocks_of(documents):
    """Slow twin of the cutting into blocks."""
    block = []
    for document in documents:
        block.append(document)
        if len(block) == BLOCK_DOCUMENTS or sum(map(len, block)) >= BLOCK_TOKENS:
            yield block
            block = []
    if block:
        yield block


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("shard_bytes", [300_000, 700_000, 1 << 26])
def test_shards_have_the_bytes_of_streamings_own_writer(tmp_path, dtype, shard_bytes):
    random = np.random.default_rng(0)
    lengths = [1, 255, 256, 65_535, 65_536, 70_000, *random.integers(1, 300, 1_000).tolist()]
    documents = [random.integers(0, 60_000, length).astype(dtype) for length in lengths]
    columns = {"input_ids": f"ndarray:{dtype}", "lengths": "ndarray:uint32"}
    with MDSWriter(
        out=str(tmp_path / "theirs"), columns=columns, hashes=["sha1"], size_limit=shard_bytes
    ) as theirs:
        for block in blocks_of(documents):
            sizes = np.array([len(document) for document in block], np.uint32)
            theirs.write({"input_ids": np.concatenate(block), "lengths": sizes})
    ours = SplitWriter(tmp_path / "ours", dtype, shard_bytes)
    for document in documents:
        ours.add(document)
    split = ours.finish()
    assert split.num_documents == len(documents)
    names = {path.name for path in (tmp_path / "theirs").iterdir()}
    sidecars = {"lengths.npy", "blocks.npy", "shards.npy"}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == names | sidecars
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    num_samples = sum(len(read_samples(file)) for file in (tmp_path / "ours").glob("*.mds"))
    assert num_samples == split.num_blocks


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_blocks_are_those_of_streamings_own_reader(tmp_path, dtype):
    random = np.random.default_rng(0)
    lengths = [1, 255, 256, 65_535, 65_536, 70_000, *random.integers(1, 300, 1_000).tolist()]
    writer = SplitWriter(tmp_path, dtype, shard_bytes=300_000)
    for length in lengths:
        writer.add(random.integers(0, 60_000, length).astype(dtype))
    writer.finish()
    entries = json.loads((tmp_path / "index.json").read_text())["shards"]
    shards = read_shards(tmp_path)
    assert len(shards) == len(entries) > 2
    for shard, entry in zip(shards, entries, strict=True):
        assert shard.to_json() == entry
        theirs = reader_from_json(str(tmp_path), None, entry)
        assert shard.num_samples == len(theirs)
        assert shard.max_bytes == theirs.get_max_size()
        for number in range(shard.num_samples):
            ids = read_block(tmp_path / shard.raw.basename, number, shard.ids_dtype)
            assert ids.dtype == dtype
            np.testing.assert_array_equal(ids, theirs[number]["input_ids"])


@pytest.mark.parametrize("damage", ["header", "truncated", "empty"])
def test_a_damaged_block_is_an_error(tmp_path, damage):
    writer = SplitWriter(tmp_path, "uint16", shard_bytes=300_000)
    writer.add(np.arange(1_000, dtype=np.uint16))
    writer.finish()
    file = tmp_path / "shard.00000.mds"
    data = bytearray(file.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    if damage == "header":
        data[8:12] = bytes(4)
    file.write_bytes({"header": data, "truncated": data[: start + 3], "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"damaged|buffer"):
        read_block(file, 0, "uint16")


@pytest.mark.parametrize("algorithm", ["sha1", "md5", "sha256", "xxh64", "xxh3_128", "blake2b"])
def test_hashes_are_those_of_streaming(algorithm):
    assert digest(algorithm, b"some bytes") == get_hash(algorithm, b"some bytes")


def test_an_unknown_hash():
    with pytest.raises(ValueError, match="unknown algorithm, 'crc'"):
        digest("crc", b"")
