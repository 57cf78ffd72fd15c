"""A page as data: sections of texts, tables and charts, as Markdown and as numbers. `html` draws it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from modernbert_train.common.redaction import redact
from modernbert_train.common.tables import Table
from modernbert_train.common.text import without_breaks
from modernbert_train.reporting.charts import Chart, DotChart


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Code:
    """A file as it is, folded."""

    title: str
    text: str


@dataclass(frozen=True)
class Tile:
    """A figure that stands for a run: what it is, its value, and what to compare it with."""

    label: str
    value: str
    hint: str = ""


@dataclass(frozen=True)
class Tiles:
    """Figures beside each other."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Legend:
    """Which colour is what; a click hides a curve in all charts."""

    # Key of the curves, their name, their colour; the baseline has none, and is dashed.
    items: tuple[tuple[str, str, int | None], ...]


@dataclass(frozen=True)
class Grid:
    """Small charts beside each other, with one table for all of them."""

    title: str
    charts: tuple[Chart, ...]
    table: Table


Block: TypeAlias = Text | Code | Tiles | Legend | Grid | Table | Chart | DotChart


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it, without charts that have no value."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    # Whether it is folded until it is asked for.
    is_folded: bool = False

    def __post_init__(self) -> None:
        self.blocks[:] = [block for block in self.blocks if not (isinstance(block, Chart) and block.is_empty)]


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    subtitle: str
    sections: list[Section]

    def charts(self) -> Iterator[Chart | DotChart]:
        """Yield all charts."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Grid):
                    yield from block.charts
                elif isinstance(block, (Chart, DotChart)):
                    yield block


def to_numbers(page: Page) -> dict[str, Any]:
    """Return all tables and curves of a page for JSON."""
    return {
        "title": page.title,
        "subtitle": page.subtitle,
        "sections": [
            {
                "title": section.title,
                "figures": {
                    tile.label: tile.value
                    for block in section.blocks
                    if isinstance(block, Tiles)
                    for tile in block.tiles
                },
                "tables": [block.numbers() for block in section.blocks if isinstance(block, Table)],
                "charts": [
                    chart.numbers()
                    for block in section.blocks
                    for chart in (block.charts if isinstance(block, Grid) else [block])
                    if isinstance(chart, (Chart, DotChart))
                ],
            }
            for section in page.sections
        ],
    }  # fmt: skip


def to_markdown(page: Page, picture: str | None = None) -> str:
    """Return a page in Markdown: its texts and tables, and those of its charts.

    Args:
        page: The page.
        picture: Path of a picture to show at the top, relative to the file.
    """
    parts = [f"# {_plain(page.title)}", _plain(page.subtitle)]
    if picture:
        parts.append(f"![{_plain(page.title)}]({picture})")
    for section in page.sections:
        parts.append(f"## {_plain(section.title)}")
        for block in section.blocks:
            parts += _markdown(block)
    return redact("\n\n".join(part for part in parts if part)) + "\n"


def _markdown(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield f"**Note:** {_plain(block.text)}" if block.is_warning else _plain(block.text)
    elif isinstance(block, Code):
        # A fence longer than any in the text.
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
        yield f"{block.title}:\n\n{fence}yaml\n{block.text.strip()}\n{fence}"
    elif isinstance(block, Tiles):
        yield "\n".join(
            f"- {_plain(tile.label)}: **{_plain(tile.value)}**{f' ({_plain(tile.hint)})' if tile.hint else ''}"
            for tile in block.tiles
        )
    elif isinstance(block, (Table, Grid, Chart)):
        table = (
            block if isinstance(block, Table) else block.table if isinstance(block, Grid) else block.table()
        )
        if block.title:
            yield f"### {_plain(block.title)}"
        yield table.markdown()


def _plain(text: str) -> str:
    """Return a text in one line, in which Markdown finds no HTML."""
    return without_breaks(text).replace("&", "&amp;").replace("<", "&lt;")
