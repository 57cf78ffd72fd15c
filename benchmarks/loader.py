"""Tokens/s of the loader in one process, from a store on disk to masked batches, compared with a simple loader.

    python -m benchmarks.loader quickstart/store
    python -m benchmarks.loader my/store --contexts 1024 8192 --seconds 10

The simple loader reads documents in store order, packs each into the best-fitting row of a buffer, and masks every
token independently. Both run in turn for the same CPU time; tokens exclude padding. `fill` is the share of slots that
hold a token. `share of a GPU step` is the time to make a batch divided by the time of a step at 600,000 tokens/s with
four workers on their own cores: below 1, the step never waits. `step waits` is the measured share of time that a
simulated GPU, which sleeps through its steps, waits for four workers on this machine.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np

from modernbert_train.data.inputs import Inputs
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.objectives import MaskedLM, Masking
from modernbert_train.store.manifest import Split, TokenizerInfo, load_manifest, load_tokenizer_info
from modernbert_train.store.reading import BlockReader

GPU_TOKENS_PER_S, WORKERS = 600_000, 4
GPU_BATCH_ROWS = 64  # rows per rank and step of the simulated GPU, at 8,192 tokens a row


def planned(
    splits: dict[str, Split],
    reader: BlockReader,
    tokenizer: TokenizerInfo,
    masking: Masking,
    context: int,
    row: int,
) -> Iterator[tuple[int, int]]:
    """Yield the tokens and slots of each batch of the loader."""
    rows = _planned_rows(splits, reader, tokenizer, masking, context, row, batch_rows=16)
    for batch in PlannedLoader(rows, num_workers=0):
        yield int(batch["num_tokens"].sum()), batch["input_ids"].numel()


def _planned_rows(
    splits: dict[str, Split],
    reader: BlockReader,
    tokenizer: TokenizerInfo,
    masking: Masking,
    context: int,
    row: int,
    batch_rows: int,
) -> PlannedRows:
    total = sum(split.num_tokens for split in splits.values())
    mixture = {name: split.num_tokens / total for name, split in splits.items()}
    plan = Plan(
        splits,
        mixture,
        num_streams=4,
        num_nodes=1,
        shuffle_rows=2_048,
        context_tokens=context,
        row_tokens=row,
        key=("benchmark",),
    )
    phase = PhaseRows(plan, MaskedLM(0.3), ((10**6, batch_rows),))
    return PlannedRows([phase], Inputs(tokenizer, masking, splits, reader), rank=0, world_size=1)


def step_waits(rows: PlannedRows, seconds: float) -> float:
    """Measure the share of time that a consumer of GPU_TOKENS_PER_S slots per second waits after its first batch."""
    loader = PlannedLoader(rows, num_workers=WORKERS)
    batches = iter(loader)
    next(batches)
    loader.wait_seconds, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        time.sleep(next(batches)["input_ids"].numel() / GPU_TOKENS_PER_S)
    return loader.wait_seconds / (time.perf_counter() - started)


def simple(
    splits: dict[str, Split],
    reader: BlockReader,
    tokenizer: TokenizerInfo,
    masking: Masking,
    context: int,
    row: int,
) -> Iterator[tuple[int, int]]:
    """Yield the tokens and slots of each row of a best-fit packer with a buffer of open rows."""
    random = np.random.default_rng(0)
    open_rows: list[list[np.ndarray]] = []
    free: list[int] = []
    while True:
        for split in splits.values():
            first = 0
            lengths = split.lengths()
            for block, (documents, _) in enumerate(split.blocks()):
                ids, at = reader.read(split, block), 0
                for length in lengths[first : first + documents].tolist():
                    for start in range(0, length, context - 2):
                        content = ids[at + start : at + min(length, start + context - 2)]
                        piece = np.concatenate([[tokenizer.cls_id], content, [tokenizer.sep_id]])
                        fitting = [number for number in range(len(free)) if free[number] >= len(piece)]
                        if fitting:
                            best = min(fitting, key=free.__getitem__)
                        else:
                            best = len(free)
                            open_rows.append([])
                            free.append(row)
                        open_rows[best].append(piece)
                        free[best] -= len(piece)
                        if len(free) > 64:
                            fullest = int(np.argmin(free))
                            yield _masked(open_rows.pop(fullest), masking, random), row
                            free.pop(fullest)
                    at += length
                first += documents


def _masked(pieces: list[np.ndarray], masking: Masking, random: np.random.Generator) -> int:
    ids = np.concatenate(pieces)
    chosen = (random.random(len(ids)) < 0.3) & masking.maskable[ids]
    labels = np.where(chosen, ids, -100)
    action = random.random(len(ids))
    drawn = random.choice(masking.ordinary_ids, len(ids))
    ids = np.where(chosen & (action < 0.8), masking.mask_id, ids)
    ids = np.where(chosen & (action >= 0.8) & (action < 0.9), drawn, ids)
    assert len(ids) == len(labels)
    return len(ids)


def measure(batches: Iterator[tuple[int, int]], seconds: float) -> tuple[int, int, float]:
    """Return tokens, slots and CPU seconds of about `seconds` of work."""
    started, tokens, slots = time.process_time(), 0, 0
    while time.process_time() - started < seconds:
        more_tokens, more_slots = next(batches)
        tokens, slots = tokens + more_tokens, slots + more_slots
    return tokens, slots, time.process_time() - started


def main() -> None:
    """Print a table with a row per context and loader."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1_024, 8_192])
    parser.add_argument("--row-tokens", type=int, default=8_192)
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU time of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    manifest = load_manifest(options.store)
    tokenizer = load_tokenizer_info(options.store)
    masking = Masking.of(tokenizer, 0.8, 0.1)
    splits = {name: splits["train"] for name, splits in manifest.sources.items() if "train" in splits}
    reader = BlockReader(splits.values())
    print(
        f"{'context':>8}{'':2}{'way':<8}{'tokens/s':>14}{'fill':>10}{'ratio':>8}{'share of a GPU step':>22}"
        f"{'step waits':>12}"
    )
    ways: dict[str, Callable[..., Iterator[tuple[int, int]]]] = {"simple": simple, "planned": planned}
    for context in options.contexts:
        running = {
            name: way(splits, reader, tokenizer, masking, context, options.row_tokens)
            for name, way in ways.items()
        }
        figures: dict[str, list[tuple[int, int, float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, batches in running.items():
                figures[name].append(measure(batches, options.seconds))
        speeds = {name: float(np.median([t / s for t, _, s in rounds])) for name, rounds in figures.items()}
        for name, measured in figures.items():
            fill = sum(tokens for tokens, _, _ in measured) / sum(slots for _, slots, _ in measured)
            share = GPU_TOKENS_PER_S / (WORKERS * speeds[name])
            ratio = speeds[name] / speeds["simple"]
            waits = ""
            if name == "planned":
                rows = _planned_rows(
                    splits, reader, tokenizer, masking, context, options.row_tokens, GPU_BATCH_ROWS
                )
                waits = f"{step_waits(rows, 5 * options.seconds):>12.4%}"
            print(
                f"{context:>8,}  {name:<8}{speeds[name]:>14,.0f}{fill:>10.3%}{ratio:>8.1f}{share:>22.4f}{waits}"
            )


if __name__ == "__main__":
    main()
