"""Inputs of several sources -> a finished token store (described in modernbert_train/store/manifest.py)."""

import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from data_prep.inputs.files import resolve_inputs
from data_prep.inputs.first_look import look_at
from data_prep.inputs.parts import plan_parts, stat_input
from data_prep.inputs.rows import HUB_PREFIX
from data_prep.sources import check_known_sources, check_source_name
from data_prep.tokenize.job import Job, Settings
from data_prep.tokenize.local import run_stage
from data_prep.tokenize.merging import merge
from data_prep.tokenize.stages import Stage, stages_of
from data_prep.tokenize.work_folder import begin, is_finished_by, store_locked
from data_prep.tokenizer import add_tokenizer
from modernbert_train.store.manifest import (
    Manifest,
    TokenizerInfo,
    load_manifest,
    token_dtype,
)


def plan_job(
    store: Path,
    tokenizer: TokenizerInfo,
    inputs: dict[str, list[str]],
    benchmarks: list[str],
    settings: Settings,
) -> Job:
    """Plan a preparation, and print what is read.

    Args:
        store: folder to write.
        tokenizer: of the store.
        inputs: source -> patterns of its files.
        benchmarks: patterns of the files to decontaminate against.
        settings: of the command.

    Returns:
        The job, its inputs cut into parts.

    Raises:
        ValueError: Invalid settings or inputs, a table without a column to read, or the tokenizer or an input is
            inside the store.
    """
    _check_settings(settings, list(inputs))
    resolved = {source: resolve_inputs(patterns) for source, patterns in inputs.items()}
    resolved_benchmarks = resolve_inputs(benchmarks).items
    items = {source: found.items for source, found in resolved.items()}
    _check_apart(store, tokenizer.path, chain(resolved_benchmarks, *items.values()))
    for source, found in resolved.items():
        look_at(source, found, settings.readings[source], settings.on_bad_row)
    entries = {source: [stat_input(item) for item in found] for source, found in items.items()}
    return Job(
        store=store,
        settings=settings,
        tokenizer_fingerprint=tokenizer.fingerprint,
        dtype=token_dtype(tokenizer.vocab_size),
        inputs=entries,
        benchmarks=[stat_input(item) for item in resolved_benchmarks],
        parts=plan_parts(entries, settings.readings),
        left_out={source: found.counts() for source, found in resolved.items()},
    )


def prepare_store(job: Job, tokenizer: TokenizerInfo, workers: int, overwrite: bool) -> Manifest:
    """Run a preparation, or the unfinished rest of it, on this machine.

    The bytes of the store depend neither on the number of workers nor on interruptions. A store that the same
    command has finished is left as it is.

    Returns:
        The manifest of the finished store.

    Raises:
        ValueError: The store belongs to another command, or a document cannot be used.
        OSError: The store cannot be written.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} must be at least 1")
    try:
        with store_locked(job.store):
            if is_finished_by(job) and not overwrite:
                return load_manifest(job.store)
            begin(job, overwrite)
            add_tokenizer(tokenizer, job.store)
            stages = stages_of(job)
            _print_resumed(job, stages)
            for stage in stages:
                run_stage(job, stage, workers)
            return merge(job)
    except OSError as error:  # from writing: readers raise ValueError
        raise OSError(
            f"store: {job.store} cannot be written ({error}); finished parts are kept: fix the cause and "
            "rerun the same command"
        ) from error


def submit_store(
    job: Job, tokenizer: TokenizerInfo, workers: int | None, overwrite: bool, slurm: dict[str, str]
) -> str:
    """Submit a preparation, or the unfinished rest of it, to a Slurm cluster.

    Returns:
        The id of the last job.

    Raises:
        ValueError: The store is finished or belongs to another command, or an option of Slurm is missing.
    """
    from data_prep.tokenize.slurm import check_options, submit  # imports datatrove

    check_options(slurm)
    with store_locked(job.store):
        begin(job, overwrite)
        _print_resumed(job, stages_of(job))
        add_tokenizer(tokenizer, job.store)
    return submit(job, slurm, workers)


def _print_resumed(job: Job, stages: list[Stage]) -> None:
    """Print how far an earlier run of the same command has come, if there was one."""
    for stage in reversed(stages):
        total = len(stage.task_bytes)
        done = sum(job.task_folder(stage.name, number).is_dir() for number in range(total))
        if done:
            of_stage = f" of stage {stage.name}" if len(stages) > 1 else ""
            print(f"resuming: {done:,} of {total:,} parts{of_stage} are done", file=sys.stderr)
            return


def _check_settings(settings: Settings, sources: list[str]) -> None:
    for source in sources:
        check_source_name(source, "input: source")
    check_known_sources(settings.licences, sources, "licence")
    if not 0 <= settings.valid_fraction < 1:
        raise ValueError(f"valid-fraction: {settings.valid_fraction} must be at least 0 and less than 1")
    if not 0 < settings.shard_bytes < 1 << 32:
        raise ValueError(
            f"shard-megabytes: {settings.shard_bytes >> 20} must be between 1 and 4095 (32-bit offsets)"
        )
    if not 0 <= settings.max_lost_text <= 1:
        raise ValueError(f"max-lost-text: {settings.max_lost_text} must be between 0 and 1")
    if settings.ngram_words < 1:
        raise ValueError(f"ngram-words: {settings.ngram_words} must be at least 1")


def _check_apart(store: Path, tokenizer: Path, items: Iterable[str]) -> None:
    """Check that nothing to be read is inside the store, which is emptied first."""
    for path in (tokenizer, *(Path(item) for item in items if not item.startswith(HUB_PREFIX))):
        if path.resolve().is_relative_to(store.resolve()):
            raise ValueError(f"store: {path} is inside {store}, which is emptied first; name another store")
