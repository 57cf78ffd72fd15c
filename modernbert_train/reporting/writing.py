"""The files of a report."""

from __future__ import annotations

import json
from pathlib import Path

from modernbert_train.common.files import url_problem, write_atomically
from modernbert_train.common.redaction import redact
from modernbert_train.reporting.html import to_html
from modernbert_train.reporting.page import Page, to_markdown, to_numbers
from modernbert_train.reporting.svg import standalone

REPORT_FILE = "report.html"


def check_out(out: str | Path) -> Path:
    """Check the path of the HTML file.

    Returns:
        The path.

    Raises:
        ValueError: It is a URL, has another ending, or its folder does not exist.
    """
    if problem := url_problem("--out", out):
        raise ValueError(problem)
    out = Path(out)
    if out.suffix != ".html":
        raise ValueError(f"--out is {out}, must end in .html, such as {out.with_suffix('.html')}")
    if not out.parent.is_dir():
        raise ValueError(
            f"--out is {out}, but there is no folder {out.parent}; create it, or name another one"
        )
    return out


def write_page(page: Page, out: Path) -> list[Path]:
    """Write a page: `NAME.html`, `NAME.md`, its first chart as `NAME.svg`, and its numbers.

    Returns:
        The files; the numbers of `report.html` are in numbers.json, others in `NAME-numbers.json`.
    """
    name = "numbers.json" if out.name == REPORT_FILE else f"{out.stem}-numbers.json"
    picture = next(page.charts(), None)
    svg = out.with_suffix(".svg")
    files = {out: to_html(page), out.with_suffix(".md"): to_markdown(page, svg.name if picture else None)}
    if picture is not None:
        files[svg] = standalone(picture)
    files[out.with_name(name)] = (
        redact(json.dumps(to_numbers(page), ensure_ascii=False, allow_nan=False)) + "\n"
    )
    for path, text in files.items():
        write_atomically(path, text)
    return list(files)
