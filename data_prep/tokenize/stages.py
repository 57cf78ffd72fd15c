"""The stages of a preparation, each a number of tasks that know of each other only through finished folders."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_prep.inputs.readers import LeftOut
from data_prep.tokenize.documents import Report, without
from data_prep.tokenize.duplicates import (
    DUPLICATES,
    HASHES,
    distinct_documents,
    num_buckets,
    write_duplicates,
    write_hashes,
)
from data_prep.tokenize.encoding import BatchEncoder, EncodedBatch, batched
from data_prep.tokenize.job import Job
from data_prep.tokenize.writer import SplitWriter
from modernbert_train.store.manifest import SPLIT_NAMES

TOKENS = "tokens"
COUNTS_NAME = "counts.json"

Task = Callable[[Job, int, Path, Report], None]


class Stage(NamedTuple):
    """Tasks that may be done in any order, by anybody; all of the stage before must be finished."""

    name: str
    task_bytes: list[int]  # of text of every task, about; 1 where that says nothing
    run: Task  # (job, number of the task, folder for its result, report)


def stages_of(job: Job) -> list[Stage]:
    """What must be done before parts are merged, in order."""
    of_parts = [part.num_bytes for part in job.parts]
    stages = []
    if job.settings.dedup:
        stages.append(Stage(HASHES, of_parts, write_hashes))
        stages.append(Stage(DUPLICATES, [1] * num_buckets(job), write_duplicates))
    if job.settings.near_dedup or job.benchmarks:
        from data_prep.tokenize import (
            near_duplicates as near,  # imports datatrove, which nothing else here needs
        )

        if job.settings.near_dedup:
            stages.append(Stage(near.SIGNATURES, of_parts, near.write_signatures))
            stages.append(Stage(near.PAIRS, [1] * near.CONFIG.num_buckets, near.write_pairs))
            stages.append(Stage(near.CLUSTERS, [1], near.write_clusters))
        if job.benchmarks:
            stages.append(Stage(near.BENCHMARKS, [1], near.write_benchmarks))
    return [*stages, Stage(TOKENS, of_parts, write_tokens)]


def run_task(job: Job, stage: Stage, number: int, report: Report) -> None:
    """Do one task, unless it is done. Its folder gets its name when everything is in it."""
    done = job.task_folder(stage.name, number)
    if done.is_dir():
        return
    # a name of its own: two machines may do one task, when a scheduler took one of them for dead
    unfinished = done.with_name(f"{done.name}.{platform.node()}-{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    stage.run(job, number, unfinished, report)
    try:
        unfinished.rename(done)
    except OSError:
        if not done.is_dir():
            raise
        shutil.rmtree(unfinished)  # the other one was first, with the same bytes


def write_tokens(job: Job, number: int, folder: Path, report: Report) -> None:
    """Tokenize a part into splits of its own, and count what was left out."""
    encoder = _encoder(job.store / "tokenizer.json", job.dtype, job.settings.valid_fraction)
    writers = {name: SplitWriter(folder / name, job.dtype, job.settings.shard_bytes) for name in SPLIT_NAMES}
    left_out = LeftOut(job.settings.skip_unreadable)
    num_documents = num_tokens = 0
    for texts in batched(_chosen_documents(job, number, left_out)):
        batch = encoder(texts)
        left_out.counts["empty"] += _write_batch(batch, writers)
        num_documents += len(batch.lengths)
        num_tokens += len(batch.ids)
        report(num_documents, num_tokens)
    for writer in writers.values():
        writer.finish()
    counts = {"left_out": {k: v for k, v in left_out.counts.items() if v}, "unreadable": left_out.unreadable}
    (folder / COUNTS_NAME).write_text(json.dumps(counts), encoding="utf-8")


def _chosen_documents(job: Job, number: int, left_out: LeftOut) -> Iterator[str]:
    texts = distinct_documents(job, number, left_out)
    if job.settings.near_dedup or job.benchmarks:
        from data_prep.tokenize import near_duplicates as near

        if job.settings.near_dedup:
            texts = without(texts, near.near_duplicates_of(job, number), "near_duplicate", left_out)
        if job.benchmarks:
            texts = near.uncontaminated(job, texts, left_out)
    return texts


@lru_cache(1)
def _encoder(tokenizer_json: Path, dtype: str, valid_fraction: float) -> BatchEncoder:
    """Loaded once in a process, not for every part."""
    return BatchEncoder(tokenizer_json, dtype, valid_fraction)


def _write_batch(batch: EncodedBatch, writers: dict[str, SplitWriter]) -> int:
    """Give every document to its split's writer; the number of empty documents, which are left out."""
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
