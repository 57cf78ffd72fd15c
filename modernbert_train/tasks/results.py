"""The record of one job, a task with a model and a seed: `result.json` and `predictions.npz` in its folder.

`predictions.npz` has for each valid set `NAME.predictions` and `NAME.labels`, a value per row (tokens: per word, whose
row is in `NAME.rows`); for retrieval `NAME.scores`, a score per query. Significance is computed from these.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert_train.common.files import write_atomically
from modernbert_train.common.text import one_line
from modernbert_train.tasks.schema import Task

RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.npz"

Predictions = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class JobResult:
    """What one job has found."""

    task: str
    kind: str
    # As the user named it.
    model: str
    seed: int
    # Name of the main score.
    metric: str
    # Score -> valid set -> value.
    scores: dict[str, dict[str, float]]
    # "best" or "last": which evaluation the scores and weights are of, and its step.
    kept: str
    step: int
    # All fields of the task.
    settings: dict[str, Any]
    protocol: str
    # "train" and each valid set -> number of rows, and share of the rows that were cut at max_tokens.
    num_rows: dict[str, int]
    cut_share: dict[str, float]
    seconds: float
    # The task that the model had been fine-tuned on before, as `start_from` asks for.
    started_from: str | None = None
    # The weights were random.
    random_twin: bool = False
    # Whatever else a kind of task reports.
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The main score: the mean over the valid sets."""
        values = self.scores[self.metric].values()
        return math.fsum(values) / len(values)


def settings_of(task: Task) -> dict[str, Any]:
    """Return the fields of a task for its record."""
    return {key: value for key, value in asdict(task).items() if key not in ("name", "folder")}


def write_result(out: Path, result: JobResult, predictions: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write both files of a job; result.json last, so that a folder that has it is complete."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(predictions))  # type: ignore[arg-type]  # numpy has options of other types
    write_atomically(out / PREDICTIONS_FILE, buffer.getvalue())
    write_atomically(out / RESULT_FILE, json.dumps(asdict(result), indent=1, default=str) + "\n")


def read_result(folder: str | Path) -> JobResult:
    """Read the record of a job.

    Returns:
        The record.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    file = Path(folder) / RESULT_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {field.name for field in fields(JobResult)}
        return JobResult(**{name: value for name, value in content.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the record of a job: {one_line(error)}") from None


def read_predictions(folder: str | Path) -> Predictions:
    """Read the predictions of a job.

    Returns:
        Name of an array -> the array.

    Raises:
        ValueError: There are none, or they are damaged.
    """
    file = Path(folder) / PREDICTIONS_FILE
    try:
        with np.load(file, allow_pickle=False) as content:
            return dict(content)
    except Exception as error:  # of zipfile, zlib, numpy
        raise ValueError(f"{file} has no predictions of a job: {one_line(error)}") from None
