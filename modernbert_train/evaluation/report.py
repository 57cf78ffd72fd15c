"""One picture of a run, from metrics.jsonl: loss, learning rate, batch, context, speed and mixture over tokens."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from modernbert_train.checkpoints.run_files import METRICS_FILE, REPORT_FILE, RunMetrics, read_metrics
from modernbert_train.common.pictures import COLOURS, EDGE, GRID, INK, style_axis
from modernbert_train.config import format_tokens
from modernbert_train.objectives import MaskedLM, phase_title

_TRAIN = "#5b6b79"
_BANDS = ("#eef3f8", "#ffffff")


def column(metrics: RunMetrics, name: str) -> np.ndarray:
    """Return the values of a training metric; NaN where a line lacks it."""
    return np.array([line.get(name, np.nan) for line in metrics.training], dtype=np.float64)


def source_shares(metrics: RunMetrics) -> dict[str, np.ndarray]:
    """Return source -> its share of the content tokens since the line before; empty if the lines lack the counts."""
    if not all(line.get("source_tokens") for line in metrics.training):
        return {}
    names = sorted(metrics.training[0]["source_tokens"])
    so_far = np.array([[line["source_tokens"][name] for name in names] for line in metrics.training])
    since = np.diff(so_far, axis=0, prepend=np.zeros((1, len(names)), dtype=np.int64))
    return dict(zip(names, (since / np.maximum(since.sum(axis=1, keepdims=True), 1)).T, strict=True))


def write_report(run: str | Path) -> Path:
    """Draw RUN/metrics.jsonl into RUN/report.png.

    Returns:
        The path of the picture.

    Raises:
        ValueError: metrics.jsonl is missing or damaged, or has no training step yet.
    """
    run = Path(run)
    metrics = read_metrics(run / METRICS_FILE)
    if not metrics.training:
        raise ValueError(
            f"{run / METRICS_FILE} has no training step yet; wait for the first one to be logged"
        )
    figure = draw_report(metrics, run.resolve().name)
    FigureCanvasAgg(figure).print_png(run / REPORT_FILE)
    return run / REPORT_FILE


def draw_report(metrics: RunMetrics, title: str) -> Figure:
    """Draw six panels over the same tokens, with the phases as bands."""
    figure = Figure(figsize=(11, 11), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots(6, 1, sharex=True, height_ratios=[3.6, 1, 1, 1, 1, 1])
    tokens = column(metrics, "tokens")
    _draw_loss(axes[0], tokens, metrics)
    # Straight lines: it changes in every step, and only some are logged.
    _draw_steps(axes[1], tokens, column(metrics, "lr"), "learning\nrate", "#d55e00", "default")
    _draw_steps(axes[2], tokens, column(metrics, "batch_tokens"), "tokens\nper batch", "#0072b2")
    _draw_steps(axes[3], tokens, column(metrics, "context_tokens"), "context\n(tokens)", "#009e73")
    _draw_speed(axes[4], tokens, column(metrics, "tokens_per_s"))
    _draw_mixture(axes[5], tokens, metrics)
    for axis in axes:
        _draw_phases(axis, metrics, labelled=axis is axes[0])
        style_axis(axis)
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes[3].set_yticks(sorted(set(column(metrics, "context_tokens"))))
    axes[3].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[5].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes[5].set_xlabel("training tokens", color=INK)
    axes[5].xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tokens(value, digits=3)))
    figure.suptitle(_title(metrics, title), x=0.012, ha="left", color=INK, fontsize=13)
    return figure


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred running mean, which skips NaN; the window is shorter at both ends."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="full")
    counts = np.convolve(known.astype(np.float64), kernel, mode="full")
    start = (window - 1) // 2
    centred = slice(start, start + len(values))
    return sums[centred] / np.maximum(counts[centred], 1.0)


def _draw_loss(axis: Axes, tokens: np.ndarray, metrics: RunMetrics) -> None:
    loss = column(metrics, "loss")
    axis.plot(tokens, loss, color=_TRAIN, alpha=0.25, linewidth=0.8)
    axis.plot(
        tokens, smooth(loss, max(1, len(loss) // 50) | 1), color=_TRAIN, linewidth=1.8, label="training"
    )
    sources = sorted({source for line in metrics.evaluations for source in line["eval"]})
    for number, source in enumerate(sources):
        lines = [line for line in metrics.evaluations if source in line["eval"]]
        axis.plot(
            [line["tokens"] for line in lines],
            [line["eval"][source]["loss"] for line in lines],
            color=COLOURS[number % len(COLOURS)],
            marker="o",
            markersize=4,
            linewidth=1.4,
            clip_on=False,  # the last point is on the edge
            label=f"held-out: {source}   {lines[-1]['eval'][source]['loss']:.2f}",
        )
    objectives = {line.get("objective", "mlm") for line in metrics.training}
    axis.set_ylabel("masked-LM loss (nats)" if objectives == {"mlm"} else "loss (nats)", color=INK)
    axis.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor=GRID, labelcolor=INK)


def _draw_steps(
    axis: Axes, tokens: np.ndarray, values: np.ndarray, label: str, colour: str, style: str = "steps-pre"
) -> None:
    # A logged value holds for the tokens up to it: the first one from 0 on.
    tokens, held = np.concatenate([[0.0], tokens]), np.concatenate([values[:1], values])
    axis.plot(tokens, held, color=colour, linewidth=1.8, drawstyle=style)
    axis.set_ylabel(label, color=INK)
    axis.set_ylim(0, np.nanmax(values, initial=0.0) * 1.15 or 1.0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tokens(value, digits=3)))


def _draw_speed(axis: Axes, tokens: np.ndarray, speed: np.ndarray) -> None:
    _draw_steps(axis, tokens, speed, "tokens\nper second", "#8a6d00")
    if np.isfinite(speed).any():
        median = float(np.nanmedian(speed))
        axis.axhline(median, color=INK, linewidth=0.8, linestyle=":")
        axis.set_title(f"median {format_tokens(median, digits=3)}", loc="right", fontsize=8, color=INK, pad=2)


def _draw_mixture(axis: Axes, tokens: np.ndarray, metrics: RunMetrics) -> None:
    """Draw the sources' shares of the text since the line before, as bands that add up to 1."""
    shares = source_shares(metrics)
    held = {name: np.concatenate([share[:1], share]) for name, share in shares.items()}
    seen = metrics.training[-1].get("source_tokens", {})
    for number, (name, bottom) in enumerate(zip(held, _stacked(list(held.values())), strict=True)):
        axis.fill_between(
            np.concatenate([[0.0], tokens]), bottom, bottom + held[name], step="pre", linewidth=0, alpha=0.7,
            color=COLOURS[number % len(COLOURS)], label=f"{name} {format_tokens(seen[name], digits=3)}",
        )  # fmt: skip
    axis.set_ylabel("mixture", color=INK)
    axis.set_ylim(0, 1)
    if held:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, labelcolor=INK)


def _stacked(shares: list[np.ndarray]) -> list[np.ndarray]:
    """Return the lower edge of each band: the sum of those below it."""
    return [sum(shares[:number], np.zeros_like(share)) for number, share in enumerate(shares)]


def _draw_phases(axis: Axes, metrics: RunMetrics, labelled: bool) -> None:
    """Draw a band for each phase, up to its last step, with its name on top."""
    start = 0.0
    for number, (name, end) in enumerate(_phase_ends(metrics)):
        axis.axvspan(start, end, color=_BANDS[number % len(_BANDS)], zorder=0, linewidth=0)
        if start > 0:
            axis.axvline(start, color=EDGE, linewidth=0.8, zorder=1)
        if labelled:
            axis.annotate(
                name, ((start + end) / 2, 1.0), xycoords=axis.get_xaxis_transform(), xytext=(0, 4),
                textcoords="offset points", ha="center", va="bottom", fontsize=10, color=INK,
            )  # fmt: skip
        start = end
    axis.set_xlim(0, start)


def _phase_ends(metrics: RunMetrics) -> list[tuple[str, float]]:
    ends: dict[str, float] = {}
    for line in sorted(metrics.training + metrics.evaluations, key=lambda line: line["tokens"]):
        ends[phase_title(line["phase"], line.get("objective", MaskedLM.name))] = float(line["tokens"])
    return list(ends.items())


def _title(metrics: RunMetrics, name: str) -> str:
    last = metrics.training[-1]
    return f"{name}: {format_tokens(last['tokens'], digits=3)} tokens in {last['step']:,} steps"
