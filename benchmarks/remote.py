"""Speed of the loader with a store in an object store, beside the same store on the local disk.

    python -m benchmarks.remote
    python -m benchmarks.remote --tokens 400M --seconds 20

Creates a store of random documents and serves it with the S3 server of the tests, in a separate process. The first part
reads the store once at full speed with one worker: from disk, through an empty cache, and through a full cache. The
second part simulates a GPU that takes 600,000 tokens/s, over a connection with 1.5 times that bandwidth. It reports the
fraction of time the GPU waits after the first windows, and its longest wait, with and without prefetching of shards.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from streaming import MDSWriter

from modernbert_train.config import parse_tokens
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.objectives import MaskedLM, Masking
from modernbert_train.store.blocks import BLOCK_DOCUMENTS
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import RetryPolicy
from modernbert_train.store.manifest import Split, TokenizerInfo, write_manifest
from modernbert_train.store.opening import open_store
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import write_sidecars
from tests.helpers.object_store import ObjectStore
from tests.helpers.stores import make_tokenizer

GPU_TOKENS_PER_S = 600_000
CONTEXT_TOKENS, ROW_TOKENS, BATCH_ROWS, STREAMS = 1_024, 8_192, 16, 4
SHARD_BYTES = 1_000_000  # small, so that a slice of them is read in seconds
# Steps not counted in the second part: the first shards are downloaded while the trainer waits for them.
SETTLED_STEPS = 8


def make_store(folder: Path, tokenizer: TokenizerInfo, tokens: int) -> None:
    """Write a store of documents of lognormal length (median 400 tokens), with the blocks that `data_prep` makes."""
    random = np.random.default_rng(0)
    split = folder / "web/train"
    columns = {"input_ids": "ndarray:uint16", "lengths": "ndarray:uint32"}
    lengths: list[np.ndarray] = []
    blocks: list[tuple[int, int]] = []
    with MDSWriter(
        out=str(split), columns=columns, hashes=["sha1"], size_limit=SHARD_BYTES, progress_bar=False
    ) as writer:
        while sum(block_tokens for _, block_tokens in blocks) < tokens:
            block = np.clip(random.lognormal(np.log(400), 1, BLOCK_DOCUMENTS), 1, 20_000).astype(np.uint32)
            ids = random.integers(5, 256, int(block.sum()), dtype=np.uint16)
            writer.write({"input_ids": ids, "lengths": block})
            lengths.append(block)
            blocks.append((len(block), len(ids)))
    shard_blocks = np.array([shard["samples"] for shard in writer.shards])
    sidecars = write_sidecars(split, np.concatenate(lengths), np.array(blocks), shard_blocks)
    write_manifest(folder, tokenizer, {"web": {"train": sidecars}}, {}, {"web": {}}, command="benchmark")


@contextmanager
def served(root: Path, bytes_per_second: float | None) -> Iterator[None]:
    """Serve the folder as an object store, in a separate process."""
    ours, theirs = multiprocessing.Pipe()

    def serve() -> None:
        store = ObjectStore(root)
        store.bytes_per_second = bytes_per_second
        theirs.send(store.url)
        time.sleep(86_400)

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    process.start()
    os.environ |= {"S3_ENDPOINT_URL": ours.recv(), "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    try:
        yield
    finally:
        process.kill()


def open_loader(split: Split, reader: BlockReader, tokenizer: TokenizerInfo) -> PlannedLoader:
    """Build a loader with one worker that reads most of the store once."""
    plan = Plan(
        {"web": split},
        {"web": 1.0},
        num_streams=STREAMS,
        num_nodes=1,
        shuffle_rows=128,
        context_tokens=CONTEXT_TOKENS,
        row_tokens=ROW_TOKENS,
        key=("benchmark",),
    )
    steps = int(0.95 * split.num_tokens / (BATCH_ROWS * ROW_TOKENS))
    phase = PhaseRows(plan, MaskedLM(0.3), ((steps, BATCH_ROWS),))
    inputs = Inputs(tokenizer, Masking.of(tokenizer, 0.8, 0.1), plan.sources, reader)
    return PlannedLoader(PlannedRows([phase], inputs, rank=0, world_size=1), num_workers=1)


def tokens_per_second(split: Split, cache: Cache | None, tokenizer: TokenizerInfo) -> float:
    """Measure one pass at full speed."""
    with closing(BlockReader([split], cache)) as reader:
        started, tokens = time.perf_counter(), 0
        for batch in open_loader(split, reader, tokenizer):
            tokens += int(batch["num_tokens"].sum())
        return tokens / (time.perf_counter() - started)


def waits(split: Split, cache: Cache, tokenizer: TokenizerInfo, seconds: float) -> tuple[float, float]:
    """Simulate a GPU; return the fraction of time it waits for batches, and its longest wait in seconds."""
    each = []
    with closing(BlockReader([split], cache)) as reader:
        loader, before, started = open_loader(split, reader, tokenizer), 0.0, time.perf_counter()
        for step, batch in enumerate(loader):
            if step >= SETTLED_STEPS:
                each.append(loader.wait_seconds - before)
            before = loader.wait_seconds
            if time.perf_counter() - started > seconds:
                break
            time.sleep(int(batch["num_tokens"].sum()) / GPU_TOKENS_PER_S)
    step_seconds = BATCH_ROWS * ROW_TOKENS / GPU_TOKENS_PER_S
    return sum(each) / (sum(each) + step_seconds * len(each)), max(each)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both parts and print their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", type=parse_tokens, default="100M", help="tokens of the store, two bytes each"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="duration of each measurement of the second part"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = make_tokenizer(root / "tokenizer")
        make_store(root / "buckets/bucket/store", tokenizer, options.tokens)

        def open_split(store: str, folder: str) -> tuple[Split, Cache]:
            cache = Cache(root / folder, None, RetryPolicy())
            return open_store(store, {"web"}, cache).sources["web"]["train"], cache

        split, cache = open_split(str(root / "buckets/bucket/store"), "unused")
        print(f"{'a pass from':<40}{'tokens/s':>16}")
        print(f"{'the local disk':<40}{tokens_per_second(split, cache, tokenizer):>16,.0f}")
        with served(root / "buckets", None):
            for title in ("an object store, nothing cached", "an object store, all cached"):
                split, cache = open_split("s3://bucket/store", "cache")
                print(f"{title:<40}{tokens_per_second(split, cache, tokenizer):>16,.0f}")
        print(f"\n{'connections of 900,000 tokens/s':<40}{'share waiting':>16}{'longest wait':>16}")
        fetch_ahead = BlockReader.fetch_ahead
        with served(root / "buckets", 1.5 * GPU_TOKENS_PER_S * 2):
            for title, ahead in (
                ("shards fetched ahead", True),
                ("shards fetched when they are read", False),
            ):
                split, cache = open_split("s3://bucket/store", f"cache ahead {ahead}")
                BlockReader.fetch_ahead = fetch_ahead if ahead else lambda *arguments: None  # type: ignore[method-assign]
                share, longest = waits(split, cache, tokenizer, options.seconds)
                print(f"{title:<40}{share:>16.1%}{longest:>14.2f} s")
        BlockReader.fetch_ahead = fetch_ahead  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
