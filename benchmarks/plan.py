"""Planning at full size, without text: 3.3 billion documents of 12 sources, 2T tokens.

    python -m benchmarks.plan /tmp/plan --documents 3.3e9
    python -m benchmarks.plan /tmp/plan --documents 3.3e9 --contexts 1024 8192 --steps 1000

Writes the sidecars of such a store once (13 GB on disk, 6 GB of memory; the lengths are lognormal with the right mean).
Then measures, each in its own process, one loader worker of one rank of 64 GPUs: at the first step, and at the last
step of a run over all tokens. Blocks are read as zeros; everything else is the real loader, including masking and
batches. Prints the time to the first batch, the peak memory of the process, the fill of the rows, and the deviation of
the sources' tokens from their shares over 1,000 steps in the middle of the run (all streams planned, nothing read).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from modernbert_train.data.inputs import Inputs
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.objectives import MaskedLM, Masking
from modernbert_train.store.blocks import cut_into_blocks
from modernbert_train.store.manifest import TokenizerInfo
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import Split, write_sidecars

# Source -> (share of the tokens, share of the documents): science and books are long, web and questions short
SOURCES = {
    "dclm": (0.40, 0.43), "fineweb": (0.20, 0.24), "code": (0.12, 0.09), "stack-edu": (0.06, 0.05),
    "papers": (0.06, 0.02), "arxiv": (0.04, 0.005), "math": (0.04, 0.04), "pdf": (0.03, 0.005),
    "forums": (0.02, 0.06), "wiki": (0.015, 0.03), "books": (0.01, 0.0005), "instructions": (0.005, 0.0295),
}  # fmt: skip
TOKENS_PER_DOCUMENT = 2e12 / 3.3e9
SHARD_TOKENS = 1 << 25  # 64 MiB of uint16
SIGMA = 1.0  # standard deviation of the logarithm of a length
STREAMS, NODES, BATCH_ROWS, ROW_TOKENS, SHUFFLE_ROWS = 192, 8, 576, 8_192, 2_048
WORLD_SIZE = 64  # one worker per rank: the measured one reads three streams


def write_store(folder: Path, num_documents: float) -> dict[str, Split]:
    """Write the sidecars of all sources, unless they exist; return the splits."""
    splits = {}
    for number, (name, (token_share, document_share)) in enumerate(SOURCES.items()):
        path = folder / f"{num_documents:.0f}" / name
        documents = int(num_documents * document_share)
        if not (path / "shards.npy").exists():
            path.mkdir(parents=True, exist_ok=True)
            mean = TOKENS_PER_DOCUMENT * token_share / document_share
            _write_split(path, documents, mean, np.random.default_rng(number))
        num_blocks, _, num_tokens = np.load(path / "shards.npy").sum(axis=0).tolist()
        splits[name] = Split(path, documents, num_tokens, num_blocks, digest=name)
    return splits


def _write_split(path: Path, documents: int, mean: float, random: np.random.Generator) -> None:
    """Write sidecars whose lengths are drawn for a million documents and repeated, which is faster."""
    drawn = random.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, min(documents, 1 << 20))
    pattern = np.clip(drawn, 1, 5e6).astype(np.uint32)
    repeats, rest = divmod(documents, len(pattern))
    pieces = [np.tile(cut_into_blocks(pattern), (repeats, 1)), cut_into_blocks(pattern[:rest])]
    blocks = np.concatenate(pieces)
    shard_blocks = np.bincount(np.cumsum(blocks[:, 1]) // SHARD_TOKENS)
    write_sidecars(path, np.resize(pattern, documents), blocks, shard_blocks)


class Zeros(BlockReader):
    """A reader whose blocks hold the right number of equal tokens."""

    def read(self, split: Split, block: int) -> np.ndarray:
        """Return constant ids: uint16 [tokens]."""
        return np.full(int(split.blocks(block, 1)[0, 1]), 5, dtype=np.uint16)


def make_plan(splits: dict[str, Split], context: int) -> Plan:
    """Build the plan of a phase over all sources."""
    mixture = {name: tokens for name, (tokens, _) in SOURCES.items()}
    return Plan(
        splits,
        mixture,
        num_streams=STREAMS,
        num_nodes=NODES,
        shuffle_rows=SHUFFLE_ROWS,
        context_tokens=context,
        row_tokens=ROW_TOKENS,
        key=(17, 0),
    )


def measure_worker(folder: Path, num_documents: float, context: int, at_end: bool) -> dict[str, float]:
    """Measure the seconds to the first batch and for the next ten, and the peak memory, of one loader worker."""
    started = time.perf_counter()
    splits = write_store(folder, num_documents)
    steps = int(num_documents * TOKENS_PER_DOCUMENT / (BATCH_ROWS * ROW_TOKENS))
    tokenizer = TokenizerInfo(Path(), "", 50_368, 1, 2, 3, 4, 0, (0, 1, 2, 3, 4), 50_368)
    plan = make_plan(splits, context)
    phase = PhaseRows(plan, MaskedLM(0.3), ((steps, BATCH_ROWS),))
    inputs = Inputs(tokenizer, Masking.of(tokenizer, 0.8, 0.1), splits, Zeros(()))
    rows = PlannedRows([phase], inputs, rank=0, world_size=WORLD_SIZE)
    if at_end:  # as in a checkpoint of one of the last steps: the position of every stream, to within a row
        rows_per_stream = (steps - 11) * BATCH_ROWS // STREAMS
        window, row = divmod(rows_per_stream, SHUFFLE_ROWS)
        rows.step, rows.positions = steps - 11, dict.fromkeys(range(STREAMS), (window, min(row, 1_000)))
    batches = iter(PlannedLoader(rows, num_workers=0))
    next(batches)
    first = time.perf_counter() - started
    for _ in range(10):
        next(batches)
    return {
        "first_batch_s": first,
        "next_ten_s": time.perf_counter() - started - first,
        "peak_GB": _peak_gb(),
    }


def _peak_gb() -> float:
    """Read the peak memory of this process, including pages of mapped files (getrusage would add the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def measure_shares(folder: Path, num_documents: float, context: int, steps: int) -> dict[str, float]:
    """Measure the fill and the largest deviation of a source's tokens from its share.

    Args:
        folder: of the sidecars.
        num_documents: of the store.
        context: longest piece of a document, in tokens.
        steps: number of steps, starting in the middle of the run and of a shuffle block.

    Returns:
        "fill" and "largest_share_error".
    """
    plan = make_plan(write_store(folder, num_documents), context)
    middle = int(num_documents * TOKENS_PER_DOCUMENT / ROW_TOKENS / SHUFFLE_ROWS / STREAMS / 2)
    names = list(plan.sources)
    tokens = np.zeros(len(names))
    slots = num_rows = 0
    rows_per_stream = steps * BATCH_ROWS // STREAMS
    for stream in range(STREAMS):
        index, first, left = middle, SHUFFLE_ROWS // 2, rows_per_stream
        while left:
            shuffle_block = plan.shuffle_block(stream, index)
            last = min(shuffle_block.num_rows, first + left)
            pieces = slice(int(shuffle_block.row_first[first]), int(shuffle_block.row_first[last]))
            source = np.array([names.index(name) for name, _ in shuffle_block.blocks])[
                shuffle_block.piece_block[pieces]
            ]
            tokens += np.bincount(source, shuffle_block.piece_tokens[pieces], len(names))
            slots += int(shuffle_block.piece_tokens[pieces].sum()) + 2 * (pieces.stop - pieces.start)
            num_rows, left = num_rows + last - first, left - (last - first)
            index, first = index + 1, 0
    shares = tokens / tokens.sum()
    planned = np.array([SOURCES[name][0] for name in names])
    return {
        "fill": slots / (num_rows * ROW_TOKENS),
        "largest_share_error": float(abs(shares - planned).max()),
    }


def main() -> None:
    """Print a line of figures per context and measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=float, default=3.3e9)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1_024, 8_192])
    parser.add_argument(
        "--steps", type=int, default=1_000, help="steps over which shares are measured (default: 1000)"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the measurement of a child process
    options = parser.parse_args()
    if options.measure:
        context, what = options.contexts[0], options.measure
        if what == "shares":
            print(json.dumps(measure_shares(options.folder, options.documents, context, options.steps)))
        else:
            print(json.dumps(measure_worker(options.folder, options.documents, context, what == "end")))
        return
    splits = write_store(options.folder, options.documents)
    total = {
        what: sum(getattr(split, what) for split in splits.values())
        for what in ("num_documents", "num_tokens")
    }
    shards = sum(len(split.shards) for split in splits.values())
    print(f"{total['num_documents']:,} documents, {total['num_tokens']:,} tokens, {shards:,} shards")
    for context in options.contexts:
        for what in ("start", "end", "shares"):
            command = [sys.executable, "-m", "benchmarks.plan", str(options.folder), "--measure", what]
            command += [
                "--documents",
                str(options.documents),
                "--contexts",
                str(context),
                "--steps",
                str(options.steps),
            ]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"context {context:,}, {what}: "
                + ", ".join(f"{key} {value:.6g}" for key, value in found.items())
            )


if __name__ == "__main__":
    main()
