"""The stages of a preparation. Their tasks communicate through finished folders only."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from data_prep.inputs.readers import LeftOut
from data_prep.tokenize.documents import Filter, Report, read_documents
from data_prep.tokenize.encoding import BatchEncoder, EncodedBatch, batched
from data_prep.tokenize.exact_duplicates import (
    DUPLICATES,
    HASHES,
    drop_exact_duplicates,
    num_buckets,
    write_duplicates,
    write_hashes,
)
from data_prep.tokenize.job import Job
from data_prep.tokenize.writer import SplitWriter
from modernbert_train.store.lost_text import check_lost_text
from modernbert_train.store.manifest import SPLIT_NAMES

TOKENS = "tokens"
COUNTS_NAME = "counts.json"
# A tokenizer that does not fit a source is found out after this much of it, not at the end
EARLY_CHECK_CHARACTERS = 1_000_000

# (job, number of the task, folder for its result, report)
Task = Callable[[Job, int, Path, Report], None]


class Stage(NamedTuple):
    """Tasks that can run in any order and on any machine, once all earlier stages are finished."""

    name: str
    task_bytes: list[int]  # estimated bytes of text per task; 1 where the size of the text does not matter
    run: Task


def stages_of(job: Job) -> list[Stage]:
    """List the stages of a job, in order, and give each one the filters of the documents that it reads.

    A filter is preceded by the stages that find the documents to drop, which read the documents that passed the
    earlier filters. The last stage reads the documents that passed all of them.

    Returns:
        All stages before merging.
    """
    part_bytes = [part.num_bytes for part in job.parts]
    stages: list[Stage] = []
    filters: list[Filter] = []
    if job.settings.dedup:
        stages.append(Stage(HASHES, part_bytes, write_hashes))
        stages.append(Stage(DUPLICATES, [1] * num_buckets(job), write_duplicates))
        filters.append(drop_exact_duplicates)
    if job.settings.near_dedup:
        from data_prep.tokenize import near_duplicates as near  # importing datatrove takes seconds

        write_signatures = partial(near.write_signatures, filters=tuple(filters))
        stages.append(Stage(near.SIGNATURES, part_bytes, write_signatures))
        stages.append(Stage(near.PAIRS, [1] * near.CONFIG.num_buckets, near.write_pairs))
        stages.append(Stage(near.CLUSTERS, [1], near.write_clusters))
        filters.append(near.drop_near_duplicates)
    if job.benchmarks:
        from data_prep.tokenize.decontamination import BENCHMARKS, drop_contaminated, write_benchmarks

        stages.append(Stage(BENCHMARKS, [1], write_benchmarks))
        filters.append(drop_contaminated)
    return [*stages, Stage(TOKENS, part_bytes, partial(write_tokens, filters=tuple(filters)))]


def run_task(job: Job, stage: Stage, number: int, report: Report) -> None:
    """Run a task unless it is done. Its folder gets its final name once it is complete."""
    done = job.task_folder(stage.name, number)
    if done.is_dir():
        return
    # a unique name: a scheduler that presumes a machine dead may run its task on another one
    unfinished = done.with_name(f"{done.name}.{platform.node()}-{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    stage.run(job, number, unfinished, report)
    try:
        unfinished.rename(done)
    except OSError:
        if not done.is_dir():
            raise
        shutil.rmtree(unfinished)  # another machine finished first, with the same bytes


def write_tokens(job: Job, number: int, folder: Path, report: Report, *, filters: Sequence[Filter]) -> None:
    """Tokenize the documents of a part that pass all filters into splits of its own; count what is left out."""
    encoder = _encoder(
        job.store / "tokenizer.json", job.tokenizer_fingerprint, job.dtype, job.settings.valid_fraction
    )
    meter = encoder.new_meter()
    writers = {name: SplitWriter(folder / name, job.dtype, job.settings.shard_bytes) for name in SPLIT_NAMES}
    left_out = LeftOut(job.settings.on_bad_row)
    num_documents = num_tokens = 0
    is_unchecked = number == _first_part(job, job.parts[number].source)
    for texts in batched(read_documents(job, number, filters, left_out), left_out):
        batch = encoder(texts, meter, left_out)
        left_out.counts["empty"] += _write_batch(batch, writers)
        num_documents += len(batch.lengths)
        num_tokens += len(batch.ids)
        del batch  # it may be one very long document
        report(num_documents, num_tokens)
        if is_unchecked and meter.counts.characters >= EARLY_CHECK_CHARACTERS:
            is_unchecked = False
            check_lost_text(
                job.parts[number].source,
                meter.counts,
                job.settings.max_lost_text,
                f" (its first {num_documents:,} documents)",
            )
    for writer in writers.values():
        writer.finish()
    counts = {
        "left_out": {k: v for k, v in left_out.counts.items() if v},
        "unreadable": left_out.unreadable,
        "text": meter.counts.to_json(),
    }
    (folder / COUNTS_NAME).write_text(json.dumps(counts), encoding="utf-8")


def _first_part(job: Job, source: str) -> int:
    return next(number for number, part in enumerate(job.parts) if part.source == source)


@lru_cache(1)
def _encoder(tokenizer_json: Path, fingerprint: str, dtype: str, valid_fraction: float) -> BatchEncoder:
    """Load the tokenizer, which has this fingerprint, once per process instead of once per part."""
    return BatchEncoder(tokenizer_json, dtype, valid_fraction)


def _write_batch(batch: EncodedBatch, writers: dict[str, SplitWriter]) -> int:
    """Pass each document to the writer of its split; return the number of documents without a token."""
    ends = batch.lengths.cumsum(dtype="int64")
    num_empty = 0
    for length, end, is_valid in zip(
        batch.lengths.tolist(), ends.tolist(), batch.is_valid.tolist(), strict=True
    ):
        if length == 0:
            num_empty += 1
        else:
            writers["valid" if is_valid else "train"].add(batch.ids[end - length : end])
    return num_empty
