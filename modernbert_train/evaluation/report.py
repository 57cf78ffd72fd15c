"""One picture of a run, drawn from metrics.jsonl: loss, learning rate, batch, context, mixture, speed over tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from modernbert_train.checkpoints.run_files import METRICS_FILE, REPORT_FILE
from modernbert_train.common.pictures import COLOURS, EDGE, GRID, INK, style_axis
from modernbert_train.objectives import MaskedLM, phase_title

_TRAIN = "#5b6b79"
_BANDS = ("#eef3f8", "#ffffff")


@dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl by optimizer step, oldest first."""

    training: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    def column(self, name: str) -> np.ndarray:
        """Values of a training metric; NaN where a line lacks it."""
        return np.array([line.get(name, np.nan) for line in self.training], dtype=np.float64)

    def source_shares(self) -> dict[str, np.ndarray]:
        """Source -> its share of the content tokens since the line before. Empty for a run that does not tell."""
        if not all(line.get("source_tokens") for line in self.training):
            return {}
        names = sorted(self.training[0]["source_tokens"])
        so_far = np.array([[line["source_tokens"][name] for name in names] for line in self.training])
        since = np.diff(so_far, axis=0, prepend=np.zeros((1, len(names)), dtype=np.int64))
        return dict(zip(names, (since / np.maximum(since.sum(axis=1, keepdims=True), 1)).T, strict=True))


def write_report(run: str | Path) -> Path:
    """Draw RUN/metrics.jsonl into RUN/report.png and return its path. ValueError: none, or broken."""
    run = Path(run)
    metrics = read_metrics(run / METRICS_FILE)
    figure = draw_report(metrics, run.resolve().name)
    FigureCanvasAgg(figure).print_png(run / REPORT_FILE)
    return run / REPORT_FILE


def read_metrics(file: Path) -> Metrics:
    """Read metrics.jsonl. A step that was run again after a restart counts once, as it was logged last.

    ValueError: no such file, no step in it, a line that is no JSON. An unfinished last line (the run was cut
    off, or is writing just now) is passed over.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist; name the folder of a run that has started training")
    lines: list[dict[str, Any]] = []
    text = file.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n") or not line.strip():
            continue
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not valid JSON ({error}); remove the line") from error
    training = {line["step"]: line for line in lines if "loss" in line}
    evaluations = {line["step"]: line for line in lines if "eval" in line}
    if not training:
        raise ValueError(f"{file} has no training step yet; wait for the first one to be logged")
    return Metrics(
        [training[step] for step in sorted(training)], [evaluations[step] for step in sorted(evaluations)]
    )


def draw_report(metrics: Metrics, title: str) -> Figure:
    """The picture: panels above each other over the same tokens, the phases as bands."""
    figure = Figure(figsize=(11, 11), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots(6, 1, sharex=True, height_ratios=[3.6, 1, 1, 1, 1, 1])
    tokens = metrics.column("tokens")
    _draw_loss(axes[0], tokens, metrics)
    _draw_steps(axes[1], tokens, metrics.column("lr"), "learning rate", "#d55e00")
    _draw_steps(axes[2], tokens, metrics.column("batch_tokens"), "tokens a batch", "#0072b2")
    _draw_steps(axes[3], tokens, metrics.column("context_tokens"), "context (tokens)", "#009e73")
    _draw_speed(axes[4], tokens, metrics.column("tokens_per_s"))
    _draw_mixture(axes[5], tokens, metrics)
    for axis in axes:
        _draw_phases(axis, metrics, labelled=axis is axes[0])
        style_axis(axis)
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes[3].set_yticks(sorted(set(metrics.column("context_tokens"))))
    axes[3].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[5].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes[5].set_xlabel("tokens of training", color=INK)
    axes[5].xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    figure.suptitle(_title(metrics, title), x=0.012, ha="left", color=INK, fontsize=13)
    return figure


def short_number(value: float) -> str:
    """1500000 -> 1.5M: three digits and a suffix."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean of the numbers among `values`; the window is cut off at the ends."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="full")
    counts = np.convolve(known.astype(np.float64), kernel, mode="full")
    start = (window - 1) // 2
    centred = slice(start, start + len(values))
    return sums[centred] / np.maximum(counts[centred], 1.0)


def _draw_loss(axis: Axes, tokens: np.ndarray, metrics: Metrics) -> None:
    loss = metrics.column("loss")
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
            clip_on=False,  # the last point lies on the edge
            label=f"held out: {source}   {lines[-1]['eval'][source]['loss']:.2f}",
        )
    objectives = {line.get("objective", "mlm") for line in metrics.training}
    axis.set_ylabel("masked-LM loss (nats)" if objectives == {"mlm"} else "loss (nats)", color=INK)
    axis.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor=GRID, labelcolor=INK)


def _draw_steps(axis: Axes, tokens: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    # A logged value holds for the tokens up to it: the first one from 0 on.
    tokens, held = np.concatenate([[0.0], tokens]), np.concatenate([values[:1], values])
    axis.plot(tokens, held, color=colour, linewidth=1.8, drawstyle="steps-pre")
    axis.set_ylabel(label, color=INK)
    axis.set_ylim(0, np.nanmax(values, initial=0.0) * 1.15 or 1.0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _draw_speed(axis: Axes, tokens: np.ndarray, speed: np.ndarray) -> None:
    _draw_steps(axis, tokens, speed, "tokens a second", "#8a6d00")
    if np.isfinite(speed).any():
        median = float(np.nanmedian(speed))
        axis.axhline(median, color=INK, linewidth=0.8, linestyle=":")
        axis.text(
            0.995, median, f"median {short_number(median)} ", transform=axis.get_yaxis_transform(),
            ha="right", va="bottom", fontsize=8, color=INK, bbox={"facecolor": "#ffffffb0", "lw": 0, "pad": 1},
        )  # fmt: skip


def _draw_mixture(axis: Axes, tokens: np.ndarray, metrics: Metrics) -> None:
    """What the text since the line before was made of, as bands that add up to 1."""
    shares = metrics.source_shares()
    held = {name: np.concatenate([share[:1], share]) for name, share in shares.items()}
    seen = metrics.training[-1].get("source_tokens", {})
    for number, (name, bottom) in enumerate(zip(held, _stacked(list(held.values())), strict=True)):
        axis.fill_between(
            np.concatenate([[0.0], tokens]), bottom, bottom + held[name], step="pre", linewidth=0, alpha=0.7,
            color=COLOURS[number % len(COLOURS)], label=f"{name} {short_number(seen[name])}",
        )  # fmt: skip
    axis.set_ylabel("mixture", color=INK)
    axis.set_ylim(0, 1)
    if held:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, labelcolor=INK)


def _stacked(shares: list[np.ndarray]) -> list[np.ndarray]:
    """Where each band begins: the sum of those below it."""
    return [sum(shares[:number], np.zeros_like(share)) for number, share in enumerate(shares)]


def _draw_phases(axis: Axes, metrics: Metrics, labelled: bool) -> None:
    """A band from the end of the phase before to the last step of each phase, its name on top."""
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


def _phase_ends(metrics: Metrics) -> list[tuple[str, float]]:
    ends: dict[str, float] = {}
    for line in sorted(metrics.training + metrics.evaluations, key=lambda line: line["tokens"]):
        ends[phase_title(line["phase"], line.get("objective", MaskedLM.name))] = float(line["tokens"])
    return list(ends.items())


def _title(metrics: Metrics, name: str) -> str:
    last = metrics.training[-1]
    return f"{name}: {short_number(last['tokens'])} tokens in {last['step']:,} steps"
