"""`modernbert report`: read the folders, build the page, write its three files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modernbert_train.reporting.compare import several_runs
from modernbert_train.reporting.page import Page
from modernbert_train.reporting.records import name_folders, read_run
from modernbert_train.reporting.sections import describe_run, single_run
from modernbert_train.reporting.writing import REPORT_FILE, check_out, write_page


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> list[Path]:
    """Write the report of one run or several.

    Args:
        folders: Of the runs.
        out: The HTML file; None: report.html, in the folder of a single run, else in the working directory.

    Returns:
        The files: HTML, Markdown, its picture, numbers.

    Raises:
        ValueError: A folder has no run, or `out` cannot be written.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    if out is None:
        out = paths[0] / REPORT_FILE if len(paths) == 1 else Path(REPORT_FILE)
    out = check_out(out)
    runs = [read_run(path, name) for path, name in zip(paths, name_folders(paths), strict=True)]
    if len(runs) == 1:
        page = Page(runs[0].name, describe_run(runs[0]), single_run(runs[0]))
    else:
        page = Page(f"{len(runs)} runs", ", ".join(run.name for run in runs), several_runs(runs))
    return write_page(page, out)
