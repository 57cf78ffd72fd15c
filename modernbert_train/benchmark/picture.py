"""The scores of a benchmark as a picture: each model on each task, with its 95% interval."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modernbert_train.benchmark.results import MEAN, Results
from modernbert_train.benchmark.significance import Estimate
from modernbert_train.common.pictures import COLOURS, INK, style_axis


def write_picture(results: Results, path: Path) -> None:
    """Draw a picture into a PNG file."""
    FigureCanvasAgg(draw_results(results)).print_png(path)


def draw_results(results: Results) -> Figure:
    """Draw a group of points for each task, and one for the mean over the tasks."""
    groups = list(results.benchmark.suite.tasks) + ([MEAN] if results.means else [])
    width = max(5.0, 0.28 * len(groups) * len(results.columns) + 2.5)
    figure = Figure(figsize=(width, 4.6), dpi=130, facecolor="white", layout="constrained")
    axis = figure.subplots()
    for number, column in enumerate(results.columns):
        shift = 0.7 * ((number + 0.5) / len(results.columns) - 0.5)
        points = [(place + shift, _estimate(results, column, name)) for place, name in enumerate(groups)]
        drawn = [(x, one) for x, one in points if one is not None]
        if not drawn:
            continue
        values = [100 * one.value for _, one in drawn]
        # The bootstrap of a score near its end may lie to one side of it.
        below = [max(0.0, 100 * (one.value - one.interval[0])) for _, one in drawn]
        above = [max(0.0, 100 * (one.interval[1] - one.value)) for _, one in drawn]
        axis.errorbar(
            [x for x, _ in drawn],
            values,
            yerr=[below, above],
            fmt="x" if column in results.baselines else "o",
            color=COLOURS[number % len(COLOURS)],
            markersize=5,
            linewidth=1.2,
            capsize=3,
            label=column,
        )
    axis.set_xticks(range(len(groups)), groups, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.6, len(groups) - 0.4)
    axis.set_ylabel("score (%)", color=INK)
    style_axis(axis)
    if results.scores:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, labelcolor=INK)
    title = f"{results.benchmark.suite.name}: mean over the seeds, 95% interval"
    figure.suptitle(title, x=0.012, ha="left", color=INK)
    return figure


def _estimate(results: Results, column: str, task: str) -> Estimate | None:
    if task == MEAN:
        return results.means.get(column)
    score = results.scores.get((column, task))
    return None if score is None else score.estimate
