"""A page as one HTML file, which needs nothing else: styles, scripts and pictures are in it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

from modernbert_train.common.tables import Cell, Table
from modernbert_train.reporting.charts import Chart, DotChart
from modernbert_train.reporting.page import Block, Code, Grid, Legend, Page, Section, Text, Tiles
from modernbert_train.reporting.svg import colour_class, colours, draw, text

# Not even by mistake does the page ask anybody for anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

# Letters of the name of a row that may take several lines.
_LONG_NAME = 40


def to_html(page: Page) -> str:
    """Return the whole file."""
    numbers = itertools.count()
    sections = "".join(_section(section, f"s{place}", numbers) for place, section in enumerate(page.sections))
    links = "".join(
        f'<a href="#s{place}">{text(section.title)}</a>'
        for place, section in enumerate(page.sections)
        if not section.is_folded
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(page.title)}</title>\n<style>\n{colours()}\n{_asset('page.css')}\n</style>\n</head>\n<body>\n"
        f"<header><div><h1>{text(page.title)}</h1><p>{_prose(page.subtitle)}</p></div>"
        '<button type="button" class="js theme" aria-label="Switch between dark and light">◐</button></header>\n'
        f'<nav aria-label="Sections">{links}</nav>\n<main>\n{sections}</main>\n'
        '<div id="tip" role="status"></div>\n'
        f"<script>\n{_asset('page.js')}\n</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("modernbert_train.reporting").joinpath(name).read_text(encoding="utf-8").strip()


def _section(section: Section, anchor: str, numbers: Iterator[int]) -> str:
    content = "".join(_blocks(section.blocks, numbers))
    if section.is_folded:
        summary = f"<summary><h2>{text(section.title)}</h2></summary>"
        return f'<section id="{anchor}"><details>{summary}{content}</details></section>\n'
    return f'<section id="{anchor}"><h2>{text(section.title)}</h2>{content}</section>\n'


def _blocks(blocks: Sequence[Block], numbers: Iterator[int]) -> Iterator[str]:
    """Yield the blocks, with charts of half the width beside each other."""
    for is_half, group in itertools.groupby(
        blocks, lambda block: isinstance(block, Chart) and block.size == "half"
    ):
        drawn = "".join(_block(block, numbers) for block in group)
        yield f'<div class="pair">{drawn}</div>' if is_half else drawn


def _block(block: Block, numbers: Iterator[int]) -> str:
    if isinstance(block, Text):
        kind = ' class="warning"' if block.is_warning else ""
        return f"<p{kind}>{_prose(block.text)}</p>"
    if isinstance(block, Code):
        return (
            f"<details><summary>{text(block.title)}</summary><pre>{text(block.text.strip())}</pre></details>"
        )
    if isinstance(block, Tiles):
        tiles = (
            f"<div><dt>{text(tile.label)}</dt><dd>{text(tile.value)}</dd><dd class='hint'>{text(tile.hint)}</dd></div>"
            for tile in block.tiles
        )
        return f'<dl class="tiles">{"".join(tiles)}</dl>'
    if isinstance(block, Legend):
        items = (
            f'<li><button type="button" aria-pressed="true" data-key="{text(key)}">'
            f'<svg viewBox="0 0 18 8" aria-hidden="true"><path class="{_mark(colour)}" d="M1 4h16"/></svg>'
            f"{text(name)}</button></li>"
            for key, name, colour in block.items
        )
        return f'<ul class="legend">{"".join(items)}</ul>'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Grid):
        panels = (
            f'<figure class="panel"><figcaption>{text(chart.title)}<span>{text(chart.remark)}</span></figcaption>'
            f"{draw(chart, next(numbers))}</figure>"
            for chart in block.charts
        )
        return f'<h3>{text(block.title)}</h3><div class="grid">{"".join(panels)}</div>{_folded(block.table)}'
    return _figure(block, numbers)


def _prose(value: str) -> str:
    """Return a text in which `this` is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(value))


def _mark(colour: int | None) -> str:
    """Return the class of the line in a legend."""
    return "reference grey" if colour is None else f"line {colour_class(colour)}"


def _figure(chart: Chart | DotChart, numbers: Iterator[int]) -> str:
    remark, data = (chart.remark, _folded(chart.table())) if isinstance(chart, Chart) else ("", "")
    return (
        f"<figure><figcaption>{text(chart.title)}<span>{text(chart.unit)}</span><b>{text(remark)}</b></figcaption>"
        f'<div class="scroll">{draw(chart, next(numbers))}</div>{data}</figure>'
    )


def _folded(table: Table) -> str:
    return f'<details class="data"><summary>Values as a table</summary>{_table(table)}</details>'


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col" class="{_kind(cells)}">{text(column.title)}</th>'
        for column, *cells in zip(table.columns, *table.rows, strict=True)
    )
    head = f"<thead><tr>{heads}</tr></thead>" if any(column.title for column in table.columns) else ""
    caption = f"<caption>{text(table.title)}</caption>" if table.title else ""
    rows = []
    for row, texts in zip(table.rows, table.texts(), strict=True):
        long = ' class="long"' if len(texts[0]) > _LONG_NAME else ""
        cells = [f'<th scope="row"{long}>{text(texts[0])}</th>']
        for column, cell, shown in zip(table.columns[1:], row[1:], texts[1:], strict=True):
            bar = ""
            if column.bar and isinstance(cell, (int, float)):
                bar = f' style="--share:{min(1.0, max(0.0, cell)):.4f}"'
            kind = "number bar" if bar else _kind([cell])
            cells.append(f'<td class="{kind}"{bar}>{text(shown)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    kind = "" if head else ' class="facts"'
    return f'<div class="scroll"><table{kind}>{caption}{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _kind(cells: Sequence[Cell]) -> str:
    """Return the class of cells: numbers stand to the right."""
    return "words" if cells and all(isinstance(cell, str) for cell in cells) else "number"
