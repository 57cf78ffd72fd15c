"""The files of a run folder: their names, and the one reader and writer of its JSON lines.

Imports neither torch nor NumPy, so that a report of a run starts at once.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert_train.common.errors import writing
from modernbert_train.common.files import write_atomically

# Resolved: every setting, with includes and overrides applied.
RECIPE_FILE = "recipe.yaml"
PROVENANCE_FILE = "provenance.json"
METRICS_FILE = "metrics.jsonl"
# The position of every data stream at each checkpoint; `modernbert plan` starts from it.
POSITIONS_FILE = "positions.jsonl"
REPORT_FILE = "report.png"
# Scores of the checkpoint that `modernbert evaluate` scored last, with the unigram baseline.
EVALUATION_FILE = "evaluation.json"
WANDB_ID_FILE = "wandb_id"
CHECKPOINT_FOLDER = "checkpoints"
# Locked by the process that is training in the folder.
LOCK_FILE = "run.lock"

_TAIL_BYTES = 65_536


def describe_missing(path: str | Path) -> str:
    """Return the message about a path without weights, where a run folder, a checkpoint or a model is expected."""
    return (
        f"{path}: no such run folder or checkpoint; name a run folder, a step-*.pt file or a Hugging Face folder "
        "(models of the Hub are not downloaded: `hf download NAME --local-dir FOLDER` does)"
    )


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the `.pt` files of a run folder, oldest first, without verifying them."""
    return sorted((Path(run) / CHECKPOINT_FOLDER).glob("step-*.pt"))


@dataclass(frozen=True)
class RunMetrics:
    """The lines of metrics.jsonl, ordered by optimizer step."""

    training: list[dict[str, Any]]
    # Without the sources that had nothing to predict, which are null in the file; at least one source in each.
    evaluations: list[dict[str, Any]]


def read_metrics(file: Path) -> RunMetrics:
    """Read metrics.jsonl. Of a step that was repeated after a restart, the last line counts.

    Returns:
        Lines of training steps and of evaluations.

    Raises:
        ValueError: The file does not exist, or a line is not JSON. An unfinished last line is skipped: the run is
            writing it, or was interrupted.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist; name the folder of a run that has started training")
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not text.endswith("\n") or not text.strip():
            continue
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not valid JSON ({error}); remove the line") from error
    training = {line["step"]: line for line in lines if "loss" in line}
    evaluations = {line["step"]: line | {"eval": scores} for line in lines if (scores := _scores(line))}
    return RunMetrics(
        [training[step] for step in sorted(training)], [evaluations[step] for step in sorted(evaluations)]
    )


def _scores(line: dict[str, Any]) -> dict[str, Any]:
    return {source: score for source, score in line.get("eval", {}).items() if score is not None}


def read_last_line(file: Path) -> dict[str, Any]:
    """Return the last complete line of a file of JSON lines, which another process may be writing; {} if none."""
    if not file.is_file():
        return {}
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        *_, last, _ = [b"{}", *opened.read().split(b"\n")]
    try:
        return json.loads(last)
    except ValueError:
        return {}


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield text and content of every complete line; an interrupted run may have left a truncated one."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        yield line, record


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append a JSON line and wait until it is on the disk."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_after(path: Path, step: int) -> None:
    """Remove the lines that an interrupted run wrote after `step`, the checkpoint from which it now resumes."""
    if path.exists():
        kept = [line + "\n" for line, record in read_lines(path) if record["step"] <= step]
        write_atomically(path, "".join(kept))


def move_after(path: Path, step: int, folder: Path) -> int:
    """Move the lines after `step` to a file of the same name in `folder`, and return their number."""
    if not path.exists():
        return 0
    later = [line + "\n" for line, record in read_lines(path) if record["step"] > step]
    if later:
        write_atomically(folder / path.name, "".join(later))
    drop_after(path, step)
    return len(later)
