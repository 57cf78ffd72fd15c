from pathlib import Path

import numpy as np
import pytest

from modernbert_train.tasks.results import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    JobResult,
    read_predictions,
    read_result,
    write_result,
)

RESULT = JobResult(
    task="mnli",
    kind="classification",
    model="runs/base",
    seed=3,
    metric="accuracy",
    scores={"accuracy": {"matched": 0.5, "mismatched": 0.75}},
    kept="best",
    step=12,
    settings={"epochs": 1.0},
    protocol="",
    num_rows={"train": 8, "matched": 4, "mismatched": 4},
    cut_share={"train": 0.25, "matched": 0.0, "mismatched": 0.0},
    seconds=1.5,
)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    predictions = {"matched.predictions": np.array([0, 1]), "matched.labels": np.array([0, 0])}
    write_result(tmp_path, RESULT, predictions)
    assert read_result(tmp_path) == RESULT
    assert read_result(tmp_path).score == 0.625
    assert {name: list(array) for name, array in read_predictions(tmp_path).items()} == {
        "matched.predictions": [0, 1],
        "matched.labels": [0, 0],
    }


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_what_is_no_result_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / RESULT_FILE).write_text(content)
        (tmp_path / PREDICTIONS_FILE).write_text(content)
    with pytest.raises(ValueError, match="is not the record of a job"):
        read_result(tmp_path)
    with pytest.raises(ValueError, match="has no predictions"):
        read_predictions(tmp_path)
