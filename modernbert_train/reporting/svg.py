"""Charts as SVG. Colours are classes, so that a page shows them dark or light; a file of its own brings them along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib.resources import files

import numpy as np

from modernbert_train.common.redaction import redact
from modernbert_train.common.tables import MeanStd
from modernbert_train.config import format_tokens
from modernbert_train.reporting.charts import GREY, NUM_COLOURS, Chart, DotChart, Series

# Width and height of the sizes of charts.
_SIZES = {"large": (1060, 340), "half": (520, 190), "small": (300, 150)}
# Of the plot within the picture.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 20, 26
# Most ticks of both axes.
_TICKS = {"large": (8, 5), "half": (5, 4), "small": (2, 3)}
# The inner picture, which is stretched to the plot: zooming changes its viewBox alone.
_SIZE = 1000
_MARGIN = 1.012
# Width of a letter, about.
_LETTER = 6.6
_LONGEST_LABEL = 34
# Above the rows of a dot chart.
_DOTS_TOP = 24
_DASHES = ("", "6 3", "2 3")


def text(value: object) -> str:
    """Return a text for HTML or SVG: without secrets, and with its special characters escaped."""
    return escape(redact(str(value)))


def colour_class(colour: int) -> str:
    """Return the class of a curve's colour."""
    return "grey" if colour == GREY else f"c{colour % NUM_COLOURS}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` + 1 round numbers from low to high, 1, 2, 2.5 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from low to high; of many powers, the powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high <= 1000 * low else (1,)
    return [f * 10.0**power for power in powers for f in factors if low <= f * 10.0**power <= high]


def limits(chart: Chart) -> tuple[float, float, float, float]:
    """Return the ends of both axes: x from 0, y with a margin around what is drawn, or from 0 for shares."""
    x_end = chart.x_end or max(float(series.x.max()) for series in chart.series if len(series.x))
    x_end *= _MARGIN  # room for the last dot
    if chart.y_range is not None:
        return 0.0, x_end, *chart.y_range
    values = np.concatenate([series.y for series in chart.series])
    values = values[np.isfinite(values) & ((values > 0) if chart.log else True)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if chart.log:
        return 0.0, x_end, low / 1.2, high * 1.2
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return 0.0, x_end, max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def draw(chart: Chart | DotChart, number: int) -> str:
    """Draw a chart.

    Args:
        chart: Not empty.
        number: Makes the ids of the picture unique in its page.

    Returns:
        An `svg` element.
    """
    return _draw_dots(chart, number) if isinstance(chart, DotChart) else _draw_curves(chart, number)


def _draw_curves(chart: Chart, number: int) -> str:
    x0, x1, y0, y1 = limits(chart)
    width, height = _SIZES[chart.size]
    small = chart.size == "small"
    most_x, most_y = _TICKS[chart.size]
    left, right = (44, 8) if small else (_LEFT, _RIGHT)
    top = 8 if small or not any(band.name for band in chart.bands) else _TOP
    plot_width, plot_height = width - left - right, height - top - _BOTTOM
    y_ticks = log_ticks(y0, y1) if chart.log else ticks(y0, y1, most_y)

    def across(x: float) -> float:
        return (x - x0) / (x1 - x0) * plot_width + left if x1 > x0 else left

    def down(y: float) -> float:
        return top + _scaled(y, y0, y1, chart.log) * plot_height

    parts = [
        f'<svg class="chart{" small" if small else ""}" viewBox="0 0 {width} {height}" role="img" tabindex="0" '
        f'aria-labelledby="t{number} d{number}" data-x0="{x0:.10g}" data-x1="{x1:.10g}" data-y0="{y0:.10g}" '
        f'data-y1="{y1:.10g}" data-log="{int(chart.log)}" data-form="{chart.form}" data-ticks="{most_x} {most_y}">',
        f'<title id="t{number}">{text(chart.title)}</title>',
        f'<desc id="d{number}">{text(chart.description or chart.unit)}</desc>',
        '<g class="bands">',
        *_bands(chart, across, top, plot_height, named=not small),
        "</g>",
        '<g class="yticks">',
        *(
            f'<line x1="{left}" x2="{width - right}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>'
            f'<text x="{left - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{text(_tick(chart, y, y_ticks))}</text>'
            for y in y_ticks
        ),
        "</g>",
        '<g class="xticks">',
        *(
            f'<text x="{across(x):.1f}" y="{height - 8}" text-anchor="{"start" if x == x0 else "middle"}">'
            f"{format_tokens(x, digits=3)}</text>"
            for x in ticks(x0, x1, most_x)
            if across(x) < width - 12
        ),
        "</g>",
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{height - _BOTTOM}" y2="{height - _BOTTOM}"/>',
        f'<svg class="plot" x="{left}" y="{top}" width="{plot_width}" height="{plot_height}" '
        f'viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none">',
        *(_path(series, x0, x1, y0, y1, chart.log) for series in chart.series),
        "</svg>",
        '<line class="cursor"/><rect class="brush"/></svg>',
    ]
    return "".join(parts)


def _scaled(y: float, y0: float, y1: float, log: bool) -> float:
    """Return the place of a value, from 0 at the top to 1 at the bottom."""
    if log:
        y, y0, y1 = (math.log10(max(value, 1e-300)) for value in (y, y0, y1))
    return (y1 - y) / (y1 - y0) if y1 > y0 else 0.5


def _tick(chart: Chart, value: float, all_ticks: Sequence[float]) -> str:
    """Return the label of a tick, with no more digits than tell the ticks apart."""
    if chart.form.endswith("%"):
        step = abs(all_ticks[1] - all_ticks[0]) if len(all_ticks) > 1 else 1.0
        return f"{value:.{0 if step >= 0.01 else 1 if step >= 0.001 else 2}%}"
    if chart.form == "tokens" or value >= 10_000:
        return format_tokens(value, digits=3)
    return f"{value:.6g}"


def _bands(
    chart: Chart, across: Callable[[float], float], top: int, height: float, named: bool
) -> Iterator[str]:
    for number, band in enumerate(chart.bands):
        start, end, parity = across(band.start), across(band.end), "odd" if number % 2 else "even"
        yield (
            f'<rect class="{parity}" x="{start:.1f}" width="{max(0.0, end - start):.1f}" y="{top}" height="{height}" '
            f'data-start="{band.start:.10g}" data-end="{band.end:.10g}"/>'
        )
        if named and band.name:
            hidden = "" if end - start > _LETTER * len(band.name) else ' style="display:none"'
            middle = f'x="{(start + end) / 2:.1f}" y="{top - 6}" text-anchor="middle"'
            yield f"<text {middle}{hidden}>{text(band.name)}</text>"


def _path(series: Series, x0: float, x1: float, y0: float, y1: float, log: bool) -> str:
    """Return the curve in the coordinates of the inner picture; a point without a neighbour is a dot."""
    pieces: list[str] = []
    is_down = False
    for x, y in zip(series.x.tolist(), series.y.tolist(), strict=True):
        if math.isnan(y) or (log and y <= 0):
            is_down = False
            continue
        place = f"{(x - x0) / (x1 - x0) * _SIZE if x1 > x0 else 0:.2f} {_scaled(y, y0, y1, log) * _SIZE:.2f}"
        pieces.append(f"L{place}" if is_down else f"M{place}h0")
        is_down = True
    path = "".join(pieces)
    style = f"{series.style} {colour_class(series.colour)}"
    names = f'data-key="{text(series.key or series.name)}" data-name="{text(series.name)}"'
    dash = _DASHES[max(0, series.colour) // NUM_COLOURS % len(_DASHES)] if series.style != "reference" else ""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = f'<path class="{style}" {names}{dashes} d="{path}"/>'
    if series.style == "points":
        dots = "".join(f"M{piece[1:].removesuffix('h0')}h0" for piece in pieces)
        key = f'data-key="{text(series.key or series.name)}"'
        drawn += f'<path class="dots {colour_class(series.colour)}" {key} d="{dots}"/>'
    return drawn


def _draw_dots(chart: DotChart, number: int) -> str:
    """Draw a dot chart; the pointer shows mean and standard deviation of a row."""
    labels = list(dict.fromkeys(row.label for row in chart.rows))
    left = min(240, 24 + max(int(_LETTER * len(label)) for label in labels))
    pitch, (width, height) = _pitch(chart), _dots_size(chart)
    room = (width - left) / len(chart.panels)
    parts = [
        f'<svg class="chart dotchart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="t{number} d{number}">',
        f'<title id="t{number}">{text(chart.title)}</title>',
        f'<desc id="d{number}">{text(chart.description or chart.unit)}</desc>',
    ]
    for place, label in enumerate(labels):
        shown = label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
        y = _DOTS_TOP + pitch * (place + 0.5) + 4
        parts.append(
            f'<rect class="{"odd" if place % 2 else "even"}" x="0" width="{width}" y="{_DOTS_TOP + pitch * place}" '
            f'height="{pitch}"/>'
        )
        parts.append(f'<text x="{left - 10}" y="{y:.1f}" text-anchor="end">{text(shown)}</text>')
    for place, title in enumerate(chart.panels):
        parts += _dot_panel(chart, place, title, labels, left + place * room, room - 18, height)
    return "".join([*parts, "</svg>"])


def _pitch(chart: DotChart) -> int:
    """Return the height of a row."""
    return 14 + 11 * len(chart.groups)


def _dots_size(chart: DotChart) -> tuple[int, int]:
    """Return width and height of the picture."""
    return _SIZES["large"][0], _DOTS_TOP + _pitch(chart) * len({row.label for row in chart.rows}) + _BOTTOM


def _dot_panel(
    chart: DotChart, place: int, title: str, labels: Sequence[str], left: float, width: float, height: int
) -> Iterator[str]:
    values = [value for row in chart.rows for value in row.values[place]]
    margin = 0.08 * (max(values) - min(values)) or abs(values[0]) * 0.05 or 1.0
    low, high = min(values) - margin, max(values) + margin

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * width

    yield f'<text class="panelname" x="{left:.1f}" y="14">{text(title)}</text><g class="xticks">'
    for x in ticks(low, high, max(1, int(width / 64))):
        yield f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{_DOTS_TOP}" y2="{height - _BOTTOM}"/>'
        yield f'<text x="{across(x):.1f}" y="{height - 8}" text-anchor="middle">{x:.6g}</text>'
    yield "</g>"
    for row in chart.rows:
        group, summary = chart.groups.index(row.group), MeanStd.of(row.values[place])
        beside = [other.group for other in chart.rows if other.label == row.label]
        middle = beside.index(row.group) - (len(beside) - 1) / 2
        y = _DOTS_TOP + _pitch(chart) * (labels.index(row.label) + 0.5) + 11 * middle
        name = f"{row.label} {row.group}".strip()
        yield f'<g class="{colour_class(group)}" data-key="{text(row.group)}">'
        yield f"<title>{text(name)}, {text(title)}: {text(summary.text(chart.form))}</title>"
        if summary.std:
            start, end = across(summary.mean - summary.std), across(summary.mean + summary.std)
            yield f'<path class="line" d="M{start:.1f} {y}H{end:.1f}"/>'
        yield from (
            f'<circle class="faint" cx="{across(x):.1f}" cy="{y}" r="2.5"/>' for x in row.values[place]
        )
        yield f'<circle class="mean" cx="{across(summary.mean):.1f}" cy="{y}" r="4.5"/></g>'


def standalone(chart: Chart | DotChart) -> str:
    """Return a chart as an SVG file, with title, legend and colours."""
    if isinstance(chart, DotChart):
        items = [("line", group, number) for number, group in enumerate(chart.groups) if group]
        width, height = _dots_size(chart)
    else:
        items = [
            (series.style, series.name, series.colour) for series in chart.series if series.style != "raw"
        ]
        width, height = _SIZES[chart.size]
    legend, x, y = [], float(_LEFT), 50
    for style, name, colour in items:
        room = 34 + 1.1 * _LETTER * len(name)
        if x + room > width and x > _LEFT:
            x, y = float(_LEFT), y + 20
        legend.append(f'<path class="{style} {colour_class(colour)}" d="M{x} {y - 4}h18"/>')
        legend.append(f'<text x="{x + 24}" y="{y}">{text(name)}</text>')
        x += room
    below = y + 16 if items else 44
    inner = draw(chart, 0).replace("<svg ", f'<svg y="{below}" width="{width}" height="{height}" ', 1)
    style = f"{colours()}\nsvg {{ background: var(--card); font: 12px system-ui, sans-serif; }}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {below + height + 8}"><style>{style}</style>'
        '<rect class="paper" width="100%" height="100%"/>'
        f'<text class="heading" x="{_LEFT}" y="26">{text(chart.title)}: {text(chart.unit)}</text>'
        f"{''.join(legend)}{inner}</svg>\n"
    )


def colours() -> str:
    """Return the styles of charts, dark and light."""
    return files("modernbert_train.reporting").joinpath("charts.css").read_text(encoding="utf-8").strip()
