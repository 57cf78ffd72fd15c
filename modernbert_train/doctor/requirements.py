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


def stores(recipe: Recipe) -> list[Finding]:
    """Check that the tokenizer matches the stores and the model, and read the first block of each source."""
    try:
        inputs = open_inputs(recipe)
    except ValueError as error:
        return [
            Finding("stores", "problem", line, "see `python -m data_prep --help`")
            for line in str(error).splitlines()
        ]
    findings = []
    with closing(inputs.reader):
        for name, split in inputs.train.items():
            try:
                inputs.reader.read(split, 0)
            except ValueError as error:
                findings.append(
                    Finding(
                        f"source {name}",
                        "problem",
                        str(error),
                        "restore the store from a copy, or prepare it again",
                    )
                )
            else:
                text = f"{split.num_documents:,} documents, {split.num_tokens:,} tokens in {split.path}"
                findings.append(Finding(f"source {name}", "ok", text))
    return [Finding("tokenizer", "ok", f"{recipe.data.tokenizer} fits the stores and the model"), *findings]


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
