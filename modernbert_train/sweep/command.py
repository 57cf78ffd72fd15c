"""`modernbert sweep`: what its options do.

Runs import torch themselves, so that `--dry-run`, `--list` and `--report` answer at once.
"""

from __future__ import annotations

import logging
import shlex
import signal
import statistics
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from modernbert_train.checkpoints.run_files import METRICS_FILE, list_checkpoints, read_metrics
from modernbert_train.common.launching import (
    Failures,
    Job,
    command,
    launch,
    split_launcher,
    stopped_exit_code,
)
from modernbert_train.common.text import format_table, list_problems
from modernbert_train.config import format_bytes, format_tokens
from modernbert_train.config.architecture import num_parameters
from modernbert_train.planning.cost import checkpoints_on_disk_bytes, training_flops_per_token
from modernbert_train.schedule import RunSchedule, build_schedule
from modernbert_train.sweep.definition import Cell, Run, Sweep, read_sweep
from modernbert_train.sweep.results import collect_results, write_results
from modernbert_train.sweep.state import check_run_folders, read_state, read_tokens

log = logging.getLogger(__name__)

# In the run folder: the output of the run's processes.
LOG_FILE = "log.txt"


def preview_sweep(path: str, overrides: list[str], folder: str | None) -> str:
    """Return the table of cells (`--dry-run`)."""
    return overview(_read_checked(path, overrides, folder))


def list_commands(path: str, overrides: list[str], folder: str | None, launcher: str | None) -> str:
    """Return the command of every run, one per line (`--list`), also of finished runs: line n never changes."""
    sweep = _read_checked(path, overrides, folder)
    words = split_launcher(launcher)
    return "\n".join(shlex.join(command(words, train_arguments(sweep, run))) for run in sweep.runs)


def report_sweep(path: str, overrides: list[str], folder: str | None) -> str:
    """Write tables and picture of the finished runs (`--report`) and return the text to print."""
    return _report(read_sweep(path, overrides, folder))


def run_sweep(
    path: str, overrides: list[str], folder: str | None, parallel: int, launcher: str | None
) -> int:
    """Run all unfinished runs, and report.

    Args:
        path: The sweep file.
        overrides: Overrides of every cell.
        folder: Folder of runs and results; None for that of the sweep file.
        parallel: Number of runs at the same time.
        launcher: Command that starts each run; None for this Python.

    Returns:
        The exit code: 0 success, 1 a run failed, 138 stopped by SIGTERM or SIGUSR1 (run again to resume), 128 + n
        stopped by another signal n.

    Raises:
        ValueError: An option, a cell or its data is wrong; nothing has been started.
    """
    if parallel < 1:
        raise ValueError(f"--parallel is {parallel}, must be at least 1")
    sweep = _read_checked(path, overrides, folder)
    split_launcher(launcher)
    check_inputs(sweep)
    runs = {run.name: run for run in sweep.runs}
    jobs = [_job(sweep, run) for run in sweep.runs]

    def is_finished(job: Job) -> bool:
        return read_state(runs[job.name]).is_finished

    failures = Failures(jobs, is_finished)
    total = sum(build_schedule(run.recipe).total_tokens for run in sweep.runs)
    with tqdm(total=total, unit=" tok", unit_scale=True, desc=sweep.name, disable=None) as bar:

        def progress() -> int:
            return sum(map(read_tokens, sweep.runs))

        stopped_by = launch(jobs, parallel, launcher, is_finished, failures.on_end, bar, progress)
    if stopped_by:
        log.warning("stopped by %s; run the same command again to resume", signal.Signals(stopped_by).name)
        return stopped_exit_code(stopped_by)
    if any(map(is_finished, jobs)):
        print(_report(sweep))
    failures.summarize()
    return 1 if failures.failed else 0


def train_arguments(sweep: Sweep, run: Run) -> list[str]:
    """Return the arguments of the command that trains a run."""
    return ["train", str(sweep.base), *run.overrides]


def _job(sweep: Sweep, run: Run) -> Job:
    return Job(run.name, lambda: train_arguments(sweep, run), Path(run.recipe.run_folder) / LOG_FILE)


def check_inputs(sweep: Sweep) -> None:
    """Check stores, tokenizers and initial weights, once for each combination, before any run starts.

    Raises:
        ValueError: Some do not exist or do not fit together, with the first cell of each problem.
    """
    from modernbert_train.checkpoints.initial import plan_start
    from modernbert_train.data.inputs import open_inputs

    problems: dict[str, str] = {}
    checked = []
    for run in sweep.runs:
        # A run with a checkpoint resumes from it and needs no initial weights.
        init = None if list_checkpoints(run.recipe.run_folder) else run.recipe.init
        inputs_of_run = (run.recipe.data, run.recipe.model, init)
        if inputs_of_run in checked:
            continue
        checked.append(inputs_of_run)
        try:
            inputs = open_inputs(run.recipe)
            with closing(inputs.reader):
                if not inputs.valid:
                    raise ValueError("no source has held-out text; tokenize with --valid-fraction above 0")
            if init is not None and init.from_ is not None:
                plan_start(run.recipe, inputs.tokenizer)
        except ValueError as error:
            problems.setdefault(str(error), run.cell)
    if problems:
        raise ValueError(
            list_problems(sweep.name, [f"cell {cell}: {problem}" for problem, cell in problems.items()])
        )


def _read_checked(path: str, overrides: list[str], folder: str | None) -> Sweep:
    sweep = read_sweep(path, overrides, folder)
    check_run_folders(sweep)
    return sweep


def _report(sweep: Sweep) -> str:
    files = write_results(sweep, collect_results(sweep))
    page = (sweep.folder / "results.md").read_text(encoding="utf-8")
    return page + "\n" + "\n".join(str(path) for path in files)


# The table of --dry-run


def overview(sweep: Sweep) -> str:
    """Return a table with a line for each cell, and the totals."""
    columns = ("cell", "parameters", "tokens/run", "steps/run", "seeds", "finished")
    table = format_table(columns, [_row(cell) for cell in sweep.cells])
    return "\n".join(
        [f"{sweep.name}: {sweep.base} in {len(sweep.cells)} cells", "", table, "", *_totals(sweep)]
    )


def _row(cell: Cell) -> tuple[str, ...]:
    recipe = cell.runs[0].recipe
    schedule = build_schedule(recipe)
    return (
        cell.name,
        f"{num_parameters(recipe.model):,}",
        format_tokens(schedule.total_tokens),
        f"{schedule.total_steps:,}",
        ", ".join(str(run.seed) for run in cell.runs),
        f"{sum(read_state(run).is_finished for run in cell.runs)} of {len(cell.runs)}",
    )


def _totals(sweep: Sweep) -> list[str]:
    runs = [(run, build_schedule(run.recipe), read_state(run)) for run in sweep.runs]
    tokens = sum(schedule.total_tokens for _, schedule, _ in runs)
    flops = sum(_max_flops(run, schedule) for run, schedule, _ in runs)
    disk = sum(checkpoints_on_disk_bytes(run.recipe, schedule) for run, schedule, _ in runs)
    unfinished = sum(not state.is_finished for *_, state in runs)
    remaining = tokens - sum(
        schedule.tokens_before(min(state.step, schedule.total_steps)) for _, schedule, state in runs
    )
    lines = [
        f"total      {len(runs)} runs, {format_tokens(tokens)} tokens, at most {flops:.1e} FLOPs (if every document "
        "filled the context)",
        f"remaining  {unfinished} runs, {format_tokens(remaining)} tokens",
    ]
    speed = _measured_speed(sweep)
    if remaining and speed is not None:
        hours, minutes = divmod(round(remaining / speed / 60), 60)
        lines.append(
            f"           {hours}:{minutes:02} hours one by one, at the measured {speed:,.0f} tokens/s"
        )
    return [*lines, f"folder     {sweep.folder}, up to {format_bytes(disk)} of checkpoints"]


def _max_flops(run: Run, schedule: RunSchedule) -> float:
    model = run.recipe.model
    return sum(
        phase.num_tokens * training_flops_per_token(model, [phase.config.context_tokens], phase.objective)
        for phase in schedule.phases
    )


def _measured_speed(sweep: Sweep) -> float | None:
    """Return the median tokens/s of the started runs, padding included, as it is in the tokens of a schedule."""
    files = [Path(run.recipe.run_folder) / METRICS_FILE for run in sweep.runs]
    started = [lines for file in files if file.is_file() and (lines := read_metrics(file).training)]
    speeds = [statistics.median(line["tokens_per_s"] / line["fill"] for line in lines) for lines in started]
    return statistics.median(speeds) if speeds else None
