"""The results of a sweep as a picture: held-out loss of every source for each setting."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modernbert_train.common.pictures import COLOURS, INK, style_axis
from modernbert_train.sweep.definition import Sweep
from modernbert_train.sweep.results import CellResult, MeanStd, RunResult

PICTURE_FILE = "results.png"
_MEAN = "mean of the sources"


def write_picture(sweep: Sweep, results: list[CellResult]) -> Path:
    """Draw `results.png` in the folder of the sweep and return its path."""
    path = sweep.folder / PICTURE_FILE
    FigureCanvasAgg(draw_results(sweep, results)).print_png(path)
    return path


def draw_results(sweep: Sweep, results: list[CellResult]) -> Figure:
    """Draw a panel for each source and one for their mean: a dot for each run, a bar for the standard deviation."""
    sources = list(results[0].runs[0].losses)
    panels = [*sources, *([_MEAN] if len(sources) > 1 else [])]
    labels = list(dict.fromkeys(result.cell.label for result in results))
    width = max(3.2, 0.55 * len(labels) + 1.4)
    figure = Figure(figsize=(width * len(panels), 4.6), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, results, labels)
        axis.set_xlabel(sweep.axis, color=INK)
    axes[0].set_ylabel("held-out loss (nats per target)", color=INK)
    if any(result.cell.series for result in results):
        axes[-1].legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.suptitle(f"{sweep.name}: mean and standard deviation over seeds", x=0.012, ha="left", color=INK)
    return figure


def _draw_panel(axis: Axes, panel: str, results: list[CellResult], labels: list[str]) -> None:
    all_series = list(dict.fromkeys(result.cell.series for result in results))
    for number, series in enumerate(all_series):
        members = [result for result in results if result.cell.series == series]
        colour = COLOURS[number % len(COLOURS)]
        # Side by side, so that the bars of several series do not overlap.
        shift = 0.24 * (number / (len(all_series) - 1) - 0.5) if len(all_series) > 1 else 0.0
        positions = [labels.index(result.cell.label) + shift for result in members]
        losses = [[_loss(run, panel) for run in result.runs] for result in members]
        summaries = [MeanStd.of(values) for values in losses]
        axis.errorbar(
            positions,
            [summary.mean for summary in summaries],
            yerr=[summary.std or 0.0 for summary in summaries],
            fmt="o-" if series else "o",
            color=colour,
            markersize=6,
            linewidth=1.2,
            capsize=4,
            label=series or None,
        )
        for x, values in zip(positions, losses, strict=True):
            dots = [x + 0.06] * len(values)
            axis.plot(dots, values, ".", color=colour, alpha=0.5, markersize=5, linestyle="none")
    axis.set_title(panel, fontsize=10, color=INK)
    axis.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(labels) - 0.5)
    style_axis(axis)


def _loss(run: RunResult, panel: str) -> float:
    return run.mean_loss if panel == _MEAN else run.losses[panel]
