"""The files of a run folder: their names, and the one reader and writer of its JSON lines.

Imports neither torch nor NumPy, so that a report of a run starts at once.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert_train.common.errors import naming
from modernbert_train.common.files import write_atomically

log = logging.getLogger(__name__)

# Resolved: every setting, with includes and overrides applied.
RECIPE_FILE = "recipe.yaml"
PROVENANCE_FILE = "provenance.json"
METRICS_FILE = "metrics.jsonl"
# The position of every data stream at each checkpoint; `modernbert plan` starts from it.
POSITIONS_FILE = "positions.jsonl"
# Scores of the checkpoint that `modernbert evaluate` scored last, with the unigram baseline.
EVALUATION_FILE = "evaluation.json"
# Scores of each checkpoint by `modernbert evaluate --watch` and `probe --watch`, which is not a part of the run.
WATCH_FILE = "watch.jsonl"
WANDB_ID_FILE = "wandb_id"
CHECKPOINT_FOLDER = "checkpoints"
# Locked by the process that is training in the folder.
LOCK_FILE = "run.lock"

_TAIL_BYTES = 65_536
# Of the stem of a checkpoint file, with its step.
CHECKPOINT_NAME = re.compile(r"step-(\d{8,})", re.ASCII)
# Fields of a line of metrics.jsonl that are text.
_TEXTS = ("time", "phase", "objective")


def describe_missing(path: str | Path) -> str:
    """Return the message about a path without weights, where a run folder, a checkpoint or a model is expected."""
    return (
        f"{path}: no such run folder or checkpoint; name a run folder, a step-*.pt file or a Hugging Face folder "
        "(models of the Hub are not downloaded: `hf download NAME --local-dir FOLDER` does)"
    )


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the `.pt` files of a run folder, oldest first, without verifying them."""
    files = (Path(run) / CHECKPOINT_FOLDER).glob("step-*.pt")
    return sorted(file for file in files if CHECKPOINT_NAME.fullmatch(file.stem))


def unused(path: Path) -> Path:
    """Return a path at which nothing exists: this one, or with the first free number behind it."""
    number, new = 1, path
    while new.exists():
        number += 1
        new = path.with_name(f"{path.name}-{number}")
    return new


def set_aside(file: Path, problem: str) -> None:
    """Rename a file that is only a record and is damaged, and say so: a run goes on without it."""
    new = unused(file.with_name(f"{file.name}.damaged"))
    file.rename(new)
    log.warning("%s: %s; it was renamed to %s, and the run goes on without it", file, problem, new.name)


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
        ValueError: The file does not exist, or a line is damaged. An unfinished last line is skipped: the run is
            writing it, or was interrupted.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist; name the folder of a run that has started training")
    *texts, _ = file.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        if text.strip():
            line = _record(text)
            if line is None or not _is_metrics(line):
                raise ValueError(
                    f"{file}, line {number}: not a line that a run writes: {text[:60]!r}; remove the line"
                )
            lines.append(line)
    training = {line["step"]: line for line in lines if "loss" in line}
    evaluations = {line["step"]: line | {"eval": scores} for line in lines if (scores := _scores(line))}
    return RunMetrics(
        [training[step] for step in sorted(training)], [evaluations[step] for step in sorted(evaluations)]
    )


def _scores(line: dict[str, Any]) -> dict[str, Any]:
    return {source: score for source, score in line.get("eval", {}).items() if score is not None}


def _is_metrics(line: dict[str, Any]) -> bool:
    """Check the types of a line: text, numbers, null, and one or, for an evaluation, two levels of objects of these."""
    scores = line.get("eval", {})
    return (
        isinstance(scores, dict)
        and all(is_scores(score) for score in scores.values())
        and all(
            _is_number(value)
            or (isinstance(value, dict) and all(map(_is_number, value.values())))
            or (isinstance(value, str) and key in _TEXTS)
            for key, value in line.items()
            if key != "eval"
        )
    )


def is_scores(score: object) -> bool:
    """Check whether a value from JSON is the scores of a source, or null."""
    return score is None or (isinstance(score, dict) and all(map(_is_number, score.values())))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _record(text: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line, None if it holds none with a whole number `step`."""
    try:
        record = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def read_last_line(file: Path) -> dict[str, Any]:
    """Return the last complete line of a file of JSON lines, which another process may be writing; {} if none."""
    if not file.is_file():
        return {}
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        *_, last, _ = [b"{}", *opened.read().split(b"\n")]
    return _record(last) or {}


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield text and content of every good line; an interrupted run may have left a truncated one, or no file."""
    if not path.is_file():
        return
    for text in path.read_bytes().split(b"\n"):
        if (record := _record(text)) is not None:
            yield text.decode(), record


def read_watch(run: str | Path) -> list[dict[str, Any]]:
    """Read watch.jsonl of a run folder, ordered by step; of a step and kind, the last line counts.

    Returns:
        Lines with at least `kind`, `step`, `tokens` and `scores`, see `evaluation.watch`; empty if nothing was watched.
        Lines of another form are skipped.
    """
    lines = {}
    for _, line in read_lines(Path(run) / WATCH_FILE):
        scores = line.get("scores")
        if (
            isinstance(line.get("kind"), str)
            and type(line.get("tokens")) is int
            and isinstance(scores, dict)
            and all(map(is_scores, scores.values()))
        ):
            lines[line["kind"], line["step"]] = line
    return sorted(lines.values(), key=lambda line: line["step"])


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append a JSON line and wait until it is on the disk."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_after(path: Path, step: int) -> None:
    """Remove the lines that an interrupted run wrote after `step`, the checkpoint from which it now resumes.

    A file with damaged lines is set aside; its good lines stay. The last line may be unfinished.
    """
    if not path.exists():
        return
    texts = path.read_bytes().split(b"\n")
    records = [_record(text) for text in texts]
    lines = list(zip(texts, records, strict=True))
    kept = [text + b"\n" for text, record in lines if record is not None and record["step"] <= step]
    damaged = [
        number for number, (text, record) in enumerate(lines[:-1], 1) if text.strip() and record is None
    ]
    if damaged:
        set_aside(path, f"damaged: {_named(damaged)}; the other lines were kept")
    write_atomically(path, b"".join(kept))


def _named(lines: list[int]) -> str:
    return f"line {lines[0]}" + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")


def move_after(path: Path, step: int, folder: Path) -> int:
    """Move the lines after `step` to a file of the same name in `folder`, and return their number."""
    if not path.exists():
        return 0
    later = [line + "\n" for line, record in read_lines(path) if record["step"] > step]
    if later:
        write_atomically(folder / path.name, "".join(later))
    drop_after(path, step)
    return len(later)
