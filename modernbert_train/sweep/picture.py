"""The results of a sweep as a picture: held-out loss of every source against the switch."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modernbert_train.common.pictures import COLOURS, INK, style_axis
from modernbert_train.sweep.definition import Sweep
from modernbert_train.sweep.results import CellResult, RunResult, Spread

PICTURE_FILE = "results.png"
_MEAN = "mean of the sources"


def write_picture(sweep: Sweep, results: list[CellResult]) -> Path:
    """Draw `results.png` in the folder of the sweep."""
    path = sweep.folder / PICTURE_FILE
    FigureCanvasAgg(draw_results(sweep, results)).print_png(path)
    return path


def draw_results(sweep: Sweep, results: list[CellResult]) -> Figure:
    """A panel for each source and one for their mean. Dots are runs, bars the standard deviation over seeds."""
    sources = list(results[0].runs[0].losses)
    panels = [*sources, *([_MEAN] if len(sources) > 1 else [])]
    places = list(dict.fromkeys(result.cell.place for result in results))
    width = max(3.2, 0.55 * len(places) + 1.4)
    figure = Figure(figsize=(width * len(panels), 4.6), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, results, places)
        axis.set_xlabel(sweep.axis, color=INK)
    axes[0].set_ylabel("held-out loss (nats a masked token)", color=INK)
    if any(result.cell.line for result in results):
        axes[-1].legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.suptitle(f"{sweep.name}: mean and standard deviation over seeds", x=0.012, ha="left", color=INK)
    return figure


def _draw_panel(axis: Axes, panel: str, results: list[CellResult], places: list[str]) -> None:
    lines = list(dict.fromkeys(result.cell.line for result in results))
    for number, line in enumerate(lines):
        of_line = [result for result in results if result.cell.line == line]
        colour = COLOURS[number % len(COLOURS)]
        shift = 0.24 * (number / (len(lines) - 1) - 0.5) if len(lines) > 1 else 0.0
        at = [places.index(result.cell.place) + shift for result in of_line]
        spreads = [Spread.of(_loss(run, panel) for run in result.runs) for result in of_line]
        axis.errorbar(
            at,
            [spread.mean for spread in spreads],
            yerr=[spread.deviation or 0.0 for spread in spreads],
            fmt="o-" if line else "o",
            color=colour,
            markersize=6,
            linewidth=1.2,
            capsize=4,
            label=line or None,
        )
        for x, result in zip(at, of_line, strict=True):
            seeds = [_loss(run, panel) for run in result.runs]
            axis.plot(
                [x + 0.06] * len(seeds), seeds, ".", color=colour, alpha=0.5, markersize=5, linestyle="none"
            )
    axis.set_title(panel, fontsize=10, color=INK)
    axis.set_xticks(range(len(places)), places, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(places) - 0.5)
    style_axis(axis)


def _loss(run: RunResult, panel: str) -> float:
    return run.mean_loss if panel == _MEAN else run.losses[panel]
