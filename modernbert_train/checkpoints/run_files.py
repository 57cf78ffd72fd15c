"""What the files of a run folder are called. Imports nothing: a report of a run starts at once."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPE_FILE = "recipe.yaml"  # resolved
PROVENANCE_FILE = "provenance.json"
METRICS_FILE = "metrics.jsonl"
POSITIONS_FILE = (
    "positions.jsonl"  # of the streams, at every checkpoint: where `modernbert batch` starts from
)
REPORT_FILE = "report.png"
WANDB_ID_FILE = "wandb_id"
CHECKPOINT_FOLDER = "checkpoints"
LOCK_FILE = "run.lock"  # held by the run that is at work


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the `.pt` files of a run folder, oldest first, without verifying them."""
    return sorted((Path(run) / CHECKPOINT_FOLDER).glob("step-*.pt"))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Write a line and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and content of every whole line; the last may be cut where a run was."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        yield line, record


def drop_after(path: Path, step: int) -> None:
    """Take out what a run that was cut off had written beyond the checkpoint it now goes on from."""
    if not path.exists():
        return
    kept = [line + "\n" for line, record in read_lines(path) if record["step"] <= step]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
