"""Charts as data: curves over tokens, and dots with error bars. `svg` draws them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modernbert_train.common.tables import Column, Table
from modernbert_train.common.types import Float64
from modernbert_train.config import format_tokens

# Colours of a chart; further curves repeat them with other dashes.
NUM_COLOURS = 8
GREY = -1
# Most points of a curve that are drawn: a screen has no more columns.
MOST_POINTS = 600
# Values of each curve in the table of a chart.
_TABLE_POINTS = 8

Style = Literal["line", "raw", "reference", "points"]
Size = Literal["large", "half", "small"]


@dataclass(frozen=True)
class Series:
    """A curve. Styles: line; raw, faint behind others; reference, dashed; points, a line with dots."""

    name: str
    # Ascending, [points].
    x: Float64
    # NaN interrupts the curve.
    y: Float64
    # From 0; GREY is that of what belongs to no source or run.
    colour: int = GREY
    style: Style = "line"
    # What a legend shows and hides together, in all charts of a page; empty: its name.
    key: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        colour: int = GREY,
        style: Style = "line",
        key: str = "",
    ) -> Series:
        """Build a curve of at most about `MOST_POINTS` points, which keep all peaks."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        kept = thin(y)
        return cls(name, x[kept], y[kept], colour, style, key or name)


@dataclass(frozen=True)
class Band:
    """A phase: a stretch of the x axis with a name."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Chart:
    """Curves over the same tokens."""

    title: str
    # Of the y axis.
    unit: str
    series: tuple[Series, ...]
    # What it shows, in a sentence, for those who do not see it.
    description: str = ""
    # Format of its values; "tokens": as `format_tokens`.
    form: str = ".3f"
    bands: tuple[Band, ...] = ()
    # Limits of the axes; None: those of the curves.
    x_end: float | None = None
    y_range: tuple[float, float] | None = None
    log: bool = False
    # Beside the title, such as the last value.
    remark: str = ""
    # A page has room for one large chart beside the other, for two halves, or for four small ones.
    size: Size = "large"

    @property
    def is_empty(self) -> bool:
        """Whether there is no value to draw."""
        return not any(np.isfinite(series.y).any() for series in self.series)

    def text(self, value: float) -> str:
        """Return a value as people read it."""
        return format_tokens(value, digits=3) if self.form == "tokens" else format(value, self.form)

    def with_remark(self, remark: str) -> Chart:
        """Return the chart with another remark."""
        return dataclasses.replace(self, remark=remark)

    def table(self) -> Table:
        """Return the curves as a table: a line for each, at some points from the first to the last."""
        shown = [series for series in self.series if series.style != "raw"]
        points = np.unique(np.concatenate([series.x[np.isfinite(series.y)] for series in shown]))
        picked = points[np.unique(np.linspace(0, len(points) - 1, _TABLE_POINTS).round().astype(int))]
        columns = [Column("after tokens")]
        columns += [
            Column(format_tokens(float(x), digits=3), "" if self.form == "tokens" else self.form)
            for x in picked
        ]
        rows = []
        for series in shown:
            values = [_value_at(series, x) for x in picked.tolist()]
            cells = [
                self.text(value) if self.form == "tokens" and value is not None else value for value in values
            ]
            rows.append((series.name, *cells))
        return Table(tuple(columns), tuple(rows), self.title)

    def numbers(self) -> dict[str, Any]:
        """Return the points of the curves for JSON."""
        curves = [
            {
                "name": series.name,
                "style": series.style,
                "tokens": series.x.tolist(),
                "values": [None if math.isnan(value) else value for value in series.y.tolist()],
            }
            for series in self.series
        ]
        return {"title": self.title, "unit": self.unit, "curves": curves}


def _value_at(series: Series, x: float) -> float | None:
    """Return the value of the point next to x, within half a step of the curve; None beyond its ends."""
    known = np.isfinite(series.y)
    xs, ys = series.x[known], series.y[known]
    if not len(xs) or not xs[0] <= x <= xs[-1]:
        return None
    return float(ys[np.abs(xs - x).argmin()])


def thin(values: Float64, most: int = MOST_POINTS) -> npt.NDArray[np.intp]:
    """Return the indices of about `most` points, ascending: the lowest and highest of each stretch, and all NaN."""
    if len(values) <= most:
        return np.arange(len(values))
    kept = [np.array([0, len(values) - 1]), np.flatnonzero(np.isnan(values))]
    for part in np.array_split(np.arange(len(values)), most // 2):
        known = part[np.isfinite(values[part])]
        if len(known):
            kept.append(known[[values[known].argmin(), values[known].argmax()]])
    return np.unique(np.concatenate(kept))


@dataclass(frozen=True)
class Dots:
    """A row of a dot chart."""

    label: str
    # Rows of one label may be of several groups, each with a colour; empty: there is one.
    group: str
    # For each panel.
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class DotChart:
    """Values of named settings, one below the other, with mean and standard deviation, in panels beside each other."""

    title: str
    unit: str
    panels: tuple[str, ...]
    rows: tuple[Dots, ...]
    description: str = ""
    form: str = ".3f"

    @property
    def groups(self) -> list[str]:
        """The names of the groups."""
        return list(dict.fromkeys(row.group for row in self.rows))

    def numbers(self) -> dict[str, Any]:
        """Return the values for JSON."""
        rows = [
            {"label": row.label, "group": row.group, **dict(zip(self.panels, row.values, strict=True))}
            for row in self.rows
        ]
        return {"title": self.title, "unit": self.unit, "rows": rows}
