"""Checks of what a recipe requires: readable stores, a matching tokenizer, disk space for checkpoints."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

from modernbert_train.config import Recipe, format_bytes
from modernbert_train.data.inputs import open_inputs
from modernbert_train.doctor.findings import Finding
from modernbert_train.planning.cost import checkpoints_on_disk_bytes
from modernbert_train.schedule import build_schedule
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import Split, comes_through_cache
from modernbert_train.store.verification import check_shards

# Of each source; reading them takes a minute or two from a disk of this machine.
_MOST_BYTES = 50_000_000_000


def stores(recipe: Recipe) -> list[Finding]:
    """Check that the tokenizer matches the stores and the model, and that the shards of each source are intact."""
    try:
        inputs = open_inputs(recipe)
    except ValueError as error:
        return [
            Finding("stores", "problem", line, "see `python -m data_prep --help`")
            for line in str(error).splitlines()
        ]
    findings: list[Finding] = []
    with closing(inputs.reader):
        findings += [_shards(name, split, inputs.reader) for name, split in inputs.train.items()]
        held_out = [
            _shards(f"{name}, held out", split, inputs.reader) for name, split in inputs.valid.items()
        ]
        findings += [finding for finding in held_out if finding.level != "ok"]
    return [Finding("tokenizer", "ok", f"{recipe.data.tokenizer} fits the stores and the model"), *findings]


def _shards(name: str, split: Split, reader: BlockReader) -> Finding:
    """Check the shards of a split, all of them or as many as can be read in minutes, and read its first block."""
    problems, compared, num_bytes = check_shards(split, _MOST_BYTES)
    try:
        reader.read(split, 0)
    except ValueError as error:
        problems = problems or [str(error)]
    if problems:
        more = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        remedy = "restore the store from a copy, or prepare it again"
        return Finding(f"source {name}", "problem", problems[0] + more, remedy)
    text = f"{split.num_documents:,} documents, {split.num_tokens:,} tokens in {split.path}"
    if comes_through_cache(split):
        text += "; its shards are compared with their hashes when they arrive"
    elif compared < num_bytes:
        text += f"; {format_bytes(compared)} of {format_bytes(num_bytes)} are intact, `data_prep verify` reads all"
    else:
        text += f"; all {format_bytes(num_bytes)} are intact"
    if unhashed := reader.num_unhashed(split):
        text += f", as far as sizes tell of {unhashed:,} shards without hashes in index.json"
    return Finding(f"source {name}", "ok", text)


def _existing_folder(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.absolute()
    return folder if folder.is_dir() else _existing_folder(folder.parent)


def disk(recipe: Recipe) -> Finding:
    """Check the disk space for all checkpoints that a run keeps, less those it has written already."""
    folder = _existing_folder(Path(recipe.run_folder))
    if not os.access(folder, os.W_OK):
        return Finding("disk", "problem", f"{folder} is not writable", "choose another run_folder")
    needed = checkpoints_on_disk_bytes(recipe, build_schedule(recipe))
    written = sum(path.stat().st_size for path in Path(recipe.run_folder).glob("checkpoints/*.pt"))
    free = shutil.disk_usage(folder).free
    text = f"{format_bytes(free)} free in {folder}, checkpoints take up to {format_bytes(needed)}"
    remedy = "choose another run_folder, or lower training.keep_checkpoints"
    if free + written < needed:
        return Finding("disk", "problem", text, remedy)
    if free + written < 2 * needed:
        return Finding("disk", "warning", text, remedy)
    return Finding("disk", "ok", text)
