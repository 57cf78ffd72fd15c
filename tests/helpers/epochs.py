"""One epoch of a whole store through the loader, and the content of its batches."""

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import numpy as np

from modernbert_train.data.batch import MicroBatch, micro_batches
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.objectives import IGNORE_INDEX, MaskedLM, Masking
from modernbert_train.store.manifest import Manifest, TokenizerInfo
from modernbert_train.store.reading import BlockReader


def plan_of_an_epoch(manifest: Manifest, context_tokens: int, row_tokens: int) -> Plan:
    """Plan exactly one epoch of the store: all sources in proportion to their size, one stream, one shuffle block."""
    splits = {name: splits["train"] for name, splits in manifest.sources.items()}
    total = sum(split.num_tokens for split in splits.values())
    mixture = {name: split.num_tokens / total for name, split in splits.items()}
    return Plan(
        splits,
        mixture,
        num_streams=1,
        num_nodes=1,
        shuffle_rows=total,
        context_tokens=context_tokens,
        row_tokens=row_tokens,
        key=(17, 0),
    )


def read_epoch(plan: Plan, tokenizer: TokenizerInfo, batch_rows: int = 16) -> Iterator[MicroBatch]:
    """Yield the micro-batches of the epoch as the trainer receives them, through a worker process."""
    num_rows = plan.shuffle_block(0, 0).num_rows
    steps = tuple(
        part for part in ((num_rows // batch_rows, batch_rows), (1, num_rows % batch_rows)) if all(part)
    )
    with closing(BlockReader(plan.sources.values())) as reader:
        inputs = Inputs(tokenizer, Masking.of(tokenizer, 0.8, 0.1), plan.sources, reader)
        rows = PlannedRows([PhaseRows(plan, MaskedLM(0.3), steps)], inputs, rank=0, world_size=1)
        for packed in PlannedLoader(rows, num_workers=1):
            yield from micro_batches(packed, rows=4, pad_id=tokenizer.pad_id)


def pieces_of(batch: MicroBatch, tokenizer: TokenizerInfo, context_tokens: int) -> list[np.ndarray]:
    """Return the unmasked content of every piece; check that each is [CLS] content [SEP] and fits the context."""
    ids, labels = batch["input_ids"].clone(), batch["labels"]
    ids[batch["target_positions"][labels != IGNORE_INDEX]] = labels[labels != IGNORE_INDEX]
    tokens, bounds = ids.numpy(), batch["cu_seqlens"].numpy()
    assert (bounds[0], bounds[-1]) == (0, len(tokens))
    lengths = np.diff(bounds)
    assert lengths.min() > 0
    assert lengths.max() <= context_tokens == batch["max_seqlen"]
    assert np.array_equal(
        batch["position_ids"].numpy(), np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)
    )
    segments = [tokens[start:stop] for start, stop in pairwise(bounds)]
    real = [segment for segment in segments if segment[0] != tokenizer.pad_id]
    assert all(segment[0] == tokenizer.cls_id and segment[-1] == tokenizer.sep_id for segment in real)
    assert sum(map(len, real)) == batch["num_tokens"]
    # No other special token anywhere: no second document in a segment, no padding within one.
    num_specials = np.isin(tokens, tokenizer.special_ids).sum()
    assert num_specials == 2 * len(real) + len(tokens) - batch["num_tokens"]
    return [segment[1:-1] for segment in real]
