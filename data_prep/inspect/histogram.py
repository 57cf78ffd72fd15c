"""Histograms of the lengths of documents in bins of powers of two, as text and as a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from data_prep.report import print_table
from modernbert_train.common.pictures import COLOURS, GRID, INK, style_axis
from modernbert_train.store.manifest import Split

_BAR_CHARACTERS = 40


@dataclass(frozen=True)
class Histogram:
    """Documents and their tokens by length: bin 0 is for empty ones, bin b for 2^(b-1) to 2^b - 1 tokens."""

    documents: np.ndarray  # int64 [33]
    tokens: np.ndarray  # int64 [33]


def length_histogram(splits: Iterable[Split]) -> Histogram:
    """Count the documents of some splits by length."""
    documents, tokens = np.zeros(33, np.int64), np.zeros(33, np.int64)
    for split in splits:
        for lengths in split.lengths_in_parts():
            bins = np.frexp(lengths.astype(np.float64))[1]  # exact: the number of binary digits
            documents += np.bincount(bins, minlength=33)
            tokens += np.bincount(bins, weights=lengths, minlength=33).astype(np.int64)
    return Histogram(documents, tokens)


def print_histogram(name: str, histogram: Histogram) -> None:
    """Print a line per bin: its share of the documents and of the tokens, and a bar of the latter."""
    used = np.flatnonzero(histogram.documents)
    documents = histogram.documents / histogram.documents.sum()
    tokens = histogram.tokens / max(1, histogram.tokens.sum())
    longest = max(tokens.max(), 1e-9)
    print()
    print_table(
        (f"{name}: tokens per document", "documents", "tokens", ""),
        [
            (
                _range(b),
                f"{documents[b]:.1%}",
                f"{tokens[b]:.1%}",
                f"{'#' * round(_BAR_CHARACTERS * tokens[b] / longest):<{_BAR_CHARACTERS}}",
            )
            for b in range(used[0], used[-1] + 1)
        ],
    )


def _range(number: int) -> str:
    return "0" if number == 0 else f"{1 << (number - 1):,} to {(1 << number) - 1:,}"


def draw_histograms(
    histograms: dict[str, Histogram], marks_tokens: Sequence[int], title: str, file: Path
) -> None:
    """Draw shares of tokens and of documents by length into a PNG.

    Args:
        histograms: source -> its histogram; each becomes a line.
        marks_tokens: lengths to mark with a vertical line.
        title: of the picture.
        file: PNG to write.
    """
    figure = Figure(figsize=(10, 7))
    # Fixed margins: a layout engine draws everything twice.
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.08, top=0.94, hspace=0.12)
    axes = figure.subplots(2, 1, sharex=True)
    longest = 1 << max(1, *(np.flatnonzero(histogram.documents)[-1] for histogram in histograms.values()))
    for axis, what in zip(axes, ("tokens", "documents"), strict=True):
        for number, (name, histogram) in enumerate(histograms.items()):
            counts = getattr(histogram, what)
            used = np.flatnonzero(histogram.documents)
            bins = np.arange(max(1, used[0]), used[-1] + 1)
            axis.stairs(
                counts[bins] / max(1, counts.sum()),
                2.0 ** np.arange(bins[0] - 1, bins[-1] + 1),
                color=COLOURS[number % len(COLOURS)],
                linewidth=1.8,
                label=f"{name}  {histogram.tokens.sum():,} tokens in {histogram.documents.sum():,} documents",
            )
        for mark in (mark for mark in marks_tokens if mark <= longest):
            axis.axvline(mark, color=INK, linewidth=0.8, linestyle=":")
            axis.annotate(
                f" {mark:,}", (mark, 0.97), xycoords=("data", "axes fraction"), fontsize=8, color=INK
            )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        style_axis(axis)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_ylabel(f"share of {what}", color=INK)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8, edgecolor=GRID, framealpha=0.9, labelcolor=INK)
    axes[1].set_xlabel("content tokens per document", color=INK)
    figure.suptitle(f"Document lengths: {title}", x=0.012, ha="left", color=INK, fontsize=12)
    FigureCanvasAgg(figure).print_png(file)
