import numpy as np
import pytest
from streaming import MDSWriter

from data_prep.tokenize.writer import SplitWriter
from modernbert_train.store.blocks import BLOCK_DOCUMENTS, BLOCK_TOKENS
from modernbert_train.store.mds import read_samples


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
