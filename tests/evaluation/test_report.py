import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modernbert_train.checkpoints.run_files import read_metrics
from modernbert_train.config import format_tokens
from modernbert_train.evaluation.report import draw_report, smooth, source_shares, write_report


def step_line(step: int, phase: str = "pretrain", **changes: Any) -> dict[str, Any]:
    line = {
        "step": step,
        "tokens": step * 1_000,
        "phase": phase,
        "loss": 8 / step,
        "lr": 1e-3,
        "batch_tokens": 1_000,
        "context_tokens": 256 if phase == "pretrain" else 1_024,
        "mask_rate": 0.3,
        "tokens_per_s": 5_000.0,
        "source_tokens": {"prose": step * 600, "code": step * 300},
    }
    return line | changes


def eval_line(step: int, phase: str = "pretrain") -> dict[str, Any]:
    scores = {"prose": {"loss": 7 / step, "accuracy": 0.1}, "code": {"loss": 6 / step, "accuracy": 0.2}}
    return {"step": step, "tokens": step * 1_000, "phase": phase, "eval": scores}


def write_metrics(run: Path, lines: list[dict[str, Any]]) -> None:
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_writes_a_picture(tmp_path: Path) -> None:
    steps = [step_line(step) for step in range(1, 60)] + [step_line(step, "extend") for step in range(60, 90)]
    write_metrics(tmp_path / "toy", [*steps, eval_line(30), eval_line(59), eval_line(89, "extend")])
    png = write_report(tmp_path / "toy")
    assert png == tmp_path / "toy" / "report.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.stat().st_size > 20_000


def test_what_the_picture_shows(tmp_path: Path) -> None:
    steps = [step_line(step) for step in range(1, 60)] + [step_line(step, "extend") for step in range(60, 90)]
    write_metrics(tmp_path / "toy", [*steps, eval_line(30), eval_line(59), eval_line(80, "extend")])
    figure = draw_report(read_metrics(tmp_path / "toy" / "metrics.jsonl"), "toy")
    loss = figure.axes[0]
    assert figure.get_suptitle() == "toy: 89K tokens in 89 steps"
    assert [text.get_text() for text in loss.texts] == ["pretrain", "extend"]
    labels = [line.get_label() for line in loss.lines]
    assert labels[1:4] == ["training", "held-out: code   0.07", "held-out: prose   0.09"]
    np.testing.assert_array_equal(loss.lines[2].get_xdata(), [30_000, 59_000, 80_000])
    np.testing.assert_allclose(loss.lines[2].get_ydata(), [6 / 30, 6 / 59, 6 / 80])
    assert list(figure.axes[3].get_yticks()) == [256, 1_024]
    assert figure.axes[5].get_legend_handles_labels()[1] == ["code 26.7K", "prose 53.4K"]


def test_the_mixture_since_the_line_before(tmp_path: Path) -> None:
    counts = [{"web": 30, "code": 10}, {"web": 30, "code": 50}, {"web": 30, "code": 50}]
    write_metrics(tmp_path / "toy", [step_line(n, source_tokens=count) for n, count in enumerate(counts, 1)])
    metrics = read_metrics(tmp_path / "toy" / "metrics.jsonl")
    shares = {name: share.tolist() for name, share in source_shares(metrics).items()}
    assert shares == {"code": [0.25, 1.0, 0.0], "web": [0.75, 0.0, 0.0]}


def test_a_run_of_one_step_without_evaluation(tmp_path: Path) -> None:
    line = step_line(1)
    del line["tokens_per_s"]  # not yet known after one step
    del line["source_tokens"]
    write_metrics(tmp_path / "toy", [line])
    assert write_report(tmp_path / "toy").is_file()


def test_a_repeated_step_counts_once(tmp_path: Path) -> None:
    write_metrics(
        tmp_path / "toy", [step_line(1), step_line(2, loss=9.0), step_line(2, loss=4.0), step_line(3)]
    )
    metrics = read_metrics(tmp_path / "toy" / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in metrics.training] == [(1, 8.0), (2, 4.0), (3, 8 / 3)]


def test_an_unfinished_last_line_is_skipped(tmp_path: Path) -> None:
    write_metrics(tmp_path / "toy", [step_line(1)])
    with (tmp_path / "toy" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "los')
    assert len(read_metrics(tmp_path / "toy" / "metrics.jsonl").training) == 1


def test_bad_metrics(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl does not exist; name the folder of a run that has started"
    ):
        write_report(tmp_path / "toy")
    write_metrics(tmp_path / "toy", [])
    with pytest.raises(ValueError, match="has no training step yet; wait for the first one"):
        write_report(tmp_path / "toy")
    (tmp_path / "toy" / "metrics.jsonl").write_text(json.dumps(step_line(1)) + "\n{broken\n")
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl, line 2: not a line that a run writes: .*; remove the line"
    ):
        write_report(tmp_path / "toy")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (256, "256"), (8_192, "8.19K"), (1_500_000, "1.5M"), (2e9, "2B"), (1.719e12, "1.72T")],
)
def test_numbers_on_axes_have_three_digits(value: float, text: str) -> None:
    assert format_tokens(value, digits=3) == text


def test_smooth_is_a_running_mean() -> None:
    values = np.array([0.0, 3.0, 6.0, np.nan, 12.0])
    np.testing.assert_allclose(smooth(values, 3), [1.5, 3.0, 4.5, 9.0, 12.0])
    np.testing.assert_allclose(smooth(values[:3], 1), values[:3])


def test_phases_of_next_tokens_are_named(tmp_path: Path) -> None:
    steps = [step_line(step, "warm", objective="clm", mask_rate=None) for step in range(1, 30)]
    steps += [step_line(step, objective="mlm") for step in range(30, 60)]
    evaluations = [eval_line(29, "warm") | {"objective": "clm"}, eval_line(59) | {"objective": "mlm"}]
    write_metrics(tmp_path / "toy", [*steps, *evaluations])
    loss = draw_report(read_metrics(tmp_path / "toy" / "metrics.jsonl"), "toy").axes[0]
    assert [text.get_text() for text in loss.texts] == ["warm, next token", "pretrain"]
    assert loss.get_ylabel() == "loss (nats)"
