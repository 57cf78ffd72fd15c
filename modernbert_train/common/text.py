"""Text for users: tables, lists of problems, suggestions."""

import difflib
import shutil
from collections.abc import Sequence

from modernbert_train.common.redaction import redact


def did_you_mean(name: str, candidates: list[str]) -> str:
    """Return `; did you mean X?` for the nearest of the candidates, or an empty string if none is near."""
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.55)
    return f"; did you mean {near[0]}?" if near else ""


def without_breaks(text: str) -> str:
    """Return a text in one line; names and values of users may have line breaks."""
    return " ".join(text.splitlines())


def one_line(error: BaseException) -> str:
    """Return the message of an error without its line breaks; or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def shorten(value: object, width: int = 100) -> str:
    """Return the repr of a value without secrets, shortened in the middle to at most `width` characters."""
    try:
        text = redact(repr(value))
    except ValueError:  # Python does not print whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"


def list_problems(title: str, problems: list[str]) -> str:
    """Format problems: a single one as it is, several as a list under a title."""
    if len(problems) == 1:
        return problems[0]
    return f"{title}: {len(problems)} problems\n" + "\n".join(f"  - {problem}" for problem in problems)


def page_width() -> int:
    """Return the columns that a page of text may take: those of the terminal, from 40 to 80."""
    return max(40, min(80, shutil.get_terminal_size().columns))


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a text table, with the first column left-aligned and the others right-aligned.

    Args:
        columns: titles.
        rows: a cell for each title.

    Returns:
        The table; or, if the terminal is too narrow for it, each row as lines of title and cell.
    """
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    in_terminal = shutil.get_terminal_size(fallback=(10_000, 24)).columns
    if sum(widths) + 2 * (len(widths) - 1) > in_terminal:
        width = max(map(len, columns))
        return "\n".join(
            f"{'  ' if i else ''}{title:<{width}}  {cell}"
            for row in rows
            for i, (title, cell) in enumerate(zip(columns, row, strict=True))
        )
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [columns, *rows]
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    rule = ["---", *(["---:"] * (len(columns) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])
