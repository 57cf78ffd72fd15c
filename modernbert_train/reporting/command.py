"""`modernbert report`: read the folders, build the page, write its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modernbert_train.checkpoints.run_files import METRICS_FILE
from modernbert_train.reporting.benchmarks import benchmark_section, read_benchmark
from modernbert_train.reporting.compare import several_runs
from modernbert_train.reporting.page import Page
from modernbert_train.reporting.records import name_folders, read_run
from modernbert_train.reporting.sections import describe_run, single_run
from modernbert_train.reporting.writing import REPORT_FILE, check_out, write_page


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> list[Path]:
    """Write the report of one run or several, and of benchmarks.

    Args:
        folders: Of runs, or with results of benchmarks.
        out: The HTML file; None: report.html, in a single folder, else in the working directory.

    Returns:
        The files: HTML, Markdown, its picture, numbers.

    Raises:
        ValueError: A folder has neither a run nor results, or `out` cannot be written.
    """
    paths = list({path.resolve(): path for path in map(Path, folders)}.values())
    if out is None:
        out = paths[0] / REPORT_FILE if len(paths) == 1 else Path(REPORT_FILE)
    out = check_out(out)
    runs, benchmarks = [], []
    for path, name in zip(paths, name_folders(paths), strict=True):
        benchmark = read_benchmark(path, name)
        if (path / METRICS_FILE).is_file() or benchmark.is_empty:
            runs.append(read_run(path, name))
        if not benchmark.is_empty:
            benchmarks.append(benchmark)
    results = [benchmark_section(benchmark) for benchmark in benchmarks]
    if len(runs) == 1:
        page = Page(runs[0].name, describe_run(runs[0]), single_run(runs[0], results))
    elif runs:
        page = Page(f"{len(runs)} runs", ", ".join(run.name for run in runs), several_runs(runs, results))
    else:
        page = Page(", ".join(benchmark.name for benchmark in benchmarks), "Benchmark results", results)
    return write_page(page, out)
