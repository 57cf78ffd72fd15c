"""The common look of all pictures: colours and axes. matplotlib is imported only when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID, EDGE = "#22303c", "#dfe4e8", "#9fb0bf"
# Distinguishable with colour blindness (Okabe and Ito, 2008)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d00")


def style_axis(axis: Axes) -> None:
    """Draw light horizontal grid lines and only the bottom spine."""
    from matplotlib.ticker import MaxNLocator

    axis.grid(True, axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=9, length=0)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(EDGE)
