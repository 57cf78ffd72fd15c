import json

import numpy as np
import pytest

from modernbert_train.checkpoints.run_files import read_metrics
from modernbert_train.config import format_tokens, load_recipe
from modernbert_train.reporting.charts import Chart, Series, thin
from modernbert_train.reporting.series import (
    planned_batch,
    planned_rate,
    smooth,
    smooth_by_phase,
    source_tokens,
    training_hours,
)
from modernbert_train.reporting.svg import limits, log_ticks, ticks
from modernbert_train.schedule import build_schedule
from tests.helpers.pages import step_line, write_metrics


def test_smooth_is_a_running_mean():
    values = np.array([0.0, 3.0, 6.0, np.nan, 12.0])
    np.testing.assert_allclose(smooth(values, 3), [1.5, 3.0, 4.5, 9.0, 12.0])
    np.testing.assert_allclose(smooth(values, 1), values)


def test_phases_are_smoothed_apart():
    lines = [step_line(step, "a") for step in range(1, 101)] + [
        step_line(step, "b") for step in range(101, 201)
    ]
    x, y = smooth_by_phase(lines, np.array([1.0] * 100 + [5.0] * 100))
    assert np.isnan(y).sum() == 1
    assert set(y[np.isfinite(y)]) == {1.0, 5.0}
    assert (np.diff(x) >= 0).all()


@pytest.mark.parametrize("count", [10, 600, 100_000])
def test_a_thinned_curve_keeps_ends_peaks_and_breaks(count):
    values = np.sin(np.arange(count) / 7)
    values[count // 2] = 9.0
    values[count // 3] = np.nan
    kept = thin(values)
    assert len(kept) <= 610
    assert {0, count - 1, count // 2, count // 3} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_what_each_phase_has_read(tmp_path):
    counts = [("a", {"web": 30, "code": 10}), ("a", {"web": 30, "code": 50}), ("b", {"web": 35, "code": 50})]
    lines = [step_line(n, phase, source_tokens=count) for n, (phase, count) in enumerate(counts, 1)]
    metrics = read_metrics(write_metrics(tmp_path / "toy", lines) / "metrics.jsonl")
    assert source_tokens(metrics) == {"a": {"web": 30, "code": 50}, "b": {"web": 5, "code": 0}}


def test_hours_of_steps(tmp_path):
    lines = [
        step_line(1, tokens=3_600, tokens_per_s=1.0),
        step_line(2, tokens=7_200, tokens_per_s=2.0, fill=0.5),
    ]
    metrics = read_metrics(write_metrics(tmp_path / "toy", lines) / "metrics.jsonl")
    assert training_hours(metrics) == pytest.approx(1 + 0.25)


def test_the_plan_is_the_schedule(tiny):
    schedule = build_schedule(load_recipe(tiny))
    tokens, rates = planned_rate(schedule)
    sizes_at, sizes = planned_batch(schedule)
    for step in range(schedule.total_steps):
        middle = schedule.tokens_before(step) + schedule.batch_tokens(step) / 2
        assert np.interp(middle, tokens, rates) == pytest.approx(schedule.learning_rate(step), rel=0.01)
        assert sizes[np.searchsorted(sizes_at, middle)] == schedule.batch_tokens(step)
    assert tokens[-1] == sizes_at[-1] == schedule.total_tokens


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (3.1, 4.4, 5, [3.5, 4.0]),
        (0, 8.19e6, 8, [0, 2e6, 4e6, 6e6, 8e6]),
        (1, 1, 5, [1]),
    ],
)
def test_ticks_are_round(low, high, most, expected):
    assert ticks(low, high, most) == pytest.approx(expected)


def test_logarithmic_ticks():
    assert log_ticks(0.4, 30) == pytest.approx([0.5, 1, 2, 5, 10, 20])
    assert log_ticks(1e-4, 1e3) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000])


def test_limits_of_a_single_value():
    for value in (0.0, 5.0, -5.0):
        *_, low, high = limits(Chart("", "", (Series.of("a", [1.0], [value]),)))
        assert low < high
        assert low <= value <= high


def test_the_table_of_a_chart_has_its_points():
    chart = Chart(
        "loss",
        "nats",
        (
            Series.of("a", range(100), range(100)),
            Series.of("b", [0, 50], [1, 2]),
            Series.of("r", [0], [9], style="raw"),
        ),
    )
    table = chart.table()
    assert [row[0] for row in table.rows] == ["a", "b"]
    assert table.rows[0][1:] == (0, 14, 28, 42, 57, 71, 85, 99)
    assert table.rows[1][-1] is None
    assert json.dumps(chart.numbers(), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (256, "256"), (8_192, "8.19K"), (1_500_000, "1.5M"), (2e9, "2B"), (1.719e12, "1.72T")],
)
def test_numbers_on_axes_have_three_digits(value, text):
    assert format_tokens(value, digits=3) == text
