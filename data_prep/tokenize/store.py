"""Texts of several sources -> a finished token store; modernbert_train/store/manifest.py says what it holds.

An unfinished store holds .work and no manifest.json: training refuses it, the same command goes on with it.
"""

import re
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from data_prep.inputs.parts import plan_parts, resolve_inputs, stat_input
from data_prep.inputs.rows import HUB_PREFIX
from data_prep.tokenize.job import Job, Settings, begin, is_finished_by, locked
from data_prep.tokenize.local import run_stage
from data_prep.tokenize.merging import merge
from data_prep.tokenize.stages import stages_of
from data_prep.tokenizer import SPECIAL_TOKENS, write_tokenizer_config
from modernbert_train.store.manifest import (
    TOKENIZER_FILES,
    Manifest,
    TokenizerInfo,
    load_manifest,
    token_dtype,
)

SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def plan_job(
    store: Path,
    tokenizer: TokenizerInfo,
    inputs: dict[str, list[str]],
    benchmarks: list[str],
    settings: Settings,
) -> Job:
    """What is to be done. `inputs`: source -> patterns; `benchmarks`: patterns.

    ValueError: settings and inputs that cannot be used, a store that holds what is read.
    """
    _check_settings(settings, list(inputs))
    resolved = {source: resolve_inputs(patterns) for source, patterns in inputs.items()}
    resolved_benchmarks = resolve_inputs(benchmarks)
    _check_apart(store, tokenizer.path, chain(resolved_benchmarks, *resolved.values()))
    found = {source: [stat_input(item) for item in items] for source, items in resolved.items()}
    return Job(
        store=store,
        settings=settings,
        tokenizer_fingerprint=tokenizer.fingerprint,
        dtype=token_dtype(tokenizer.vocab_size),
        inputs=found,
        benchmarks=[stat_input(item) for item in resolved_benchmarks],
        parts=plan_parts(found),
    )


def prepare_store(job: Job, tokenizer: TokenizerInfo, workers: int, overwrite: bool) -> Manifest:
    """Do a preparation, or what is left of it, on this machine.

    The bytes of the store do not depend on the number of workers, nor on how often it was cut off. A store that
    the same command has finished stays as it is.
    ValueError: a store of another command, documents that cannot be used.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} must be at least 1")
    try:
        with locked(job.store):
            if is_finished_by(job) and not overwrite:
                return load_manifest(job.store)
            begin(job, overwrite)
            copy_tokenizer(tokenizer, job.store)
            for stage in stages_of(job):
                run_stage(job, stage, workers)
            return merge(job)
    except OSError as error:  # not of reading: readers make ValueErrors of theirs
        raise OSError(
            f"store: {job.store} cannot be written ({error}); what is finished stays: the same command goes on"
        ) from error


def submit_store(
    job: Job, tokenizer: TokenizerInfo, workers: int | None, overwrite: bool, slurm: dict[str, str]
) -> str:
    """Send a preparation, or what is left of it, to a Slurm cluster; the id of the job that ends it.

    ValueError: a store that is finished or another command's, a missing option of Slurm.
    """
    from data_prep.tokenize.slurm import check_options, submit  # imports datatrove

    check_options(slurm)
    with locked(job.store):
        begin(job, overwrite)
        copy_tokenizer(tokenizer, job.store)
    return submit(job, slurm, workers)


def copy_tokenizer(info: TokenizerInfo, folder: Path) -> None:
    """Copy the tokenizer's files as they stand; a missing tokenizer_config.json is made, a minimal one."""
    for name in TOKENIZER_FILES:
        if (info.path / name).is_file():
            shutil.copyfile(info.path / name, folder / name)
    if not (folder / "tokenizer_config.json").is_file():
        # without a config load_tokenizer_info finds the special tokens by ModernBERT's names
        roles = [role for role in SPECIAL_TOKENS if role != "unk" or info.unk_id is not None]
        write_tokenizer_config(folder, {role: SPECIAL_TOKENS[role] for role in roles})


def _check_settings(settings: Settings, sources: list[str]) -> None:
    for source in sources:
        if not SOURCE_NAME.fullmatch(source):
            raise ValueError(
                f"input: source {source!r} must be letters, digits, '_', '-' and '.' (a folder's name)"
            )
    for option, named in (("licence", settings.licences), ("text-field", settings.text_fields)):
        unknown = sorted(set(named) - set(sources))
        if unknown:
            raise ValueError(f"{option}: no input is named {unknown[0]!r}; sources: {', '.join(sources)}")
    if not 0 <= settings.valid_fraction < 1:
        raise ValueError(f"valid-fraction: {settings.valid_fraction} must be at least 0 and below 1")
    if not 0 < settings.shard_bytes < 1 << 32:
        raise ValueError(
            f"shard-megabytes: {settings.shard_bytes >> 20} must be from 1 to 4095 (offsets have 32 bits)"
        )
    if settings.ngram_words < 1:
        raise ValueError(f"ngram-words: {settings.ngram_words} must be at least 1")


def _check_apart(store: Path, tokenizer: Path, items: Iterable[str]) -> None:
    """What is read must not lie in the store, which is emptied first."""
    for path in (tokenizer, *(Path(item) for item in items if not item.startswith(HUB_PREFIX))):
        if path.resolve().is_relative_to(store.resolve()):
            raise ValueError(f"store: {store} must not hold what is read ({path}); name another folder")
