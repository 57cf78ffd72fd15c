"""`modernbert sweep`, all of it."""

from __future__ import annotations

import logging
import signal
import statistics
from contextlib import closing
from pathlib import Path

from modernbert_train.checkpoints.initial import plan_start
from modernbert_train.checkpoints.run_files import METRICS_FILE, list_checkpoints, read_metrics
from modernbert_train.common.processes import REQUEUE_EXIT_CODE, SIGNALS
from modernbert_train.common.text import format_table, list_problems
from modernbert_train.config import format_bytes, format_tokens
from modernbert_train.config.architecture import num_parameters
from modernbert_train.data.inputs import open_inputs
from modernbert_train.planning.cost import checkpoints_on_disk_bytes, training_flops_per_token
from modernbert_train.schedule import RunSchedule, build_schedule
from modernbert_train.sweep.definition import Cell, Run, Sweep, read_sweep
from modernbert_train.sweep.launch import Outcome, command_of, fill_template, launch
from modernbert_train.sweep.picture import write_picture
from modernbert_train.sweep.results import collect, write_tables
from modernbert_train.sweep.state import check_run_folders, read_state

log = logging.getLogger(__name__)


def preview_sweep(path: str, overrides: list[str], folder: str | None) -> str:
    """The table of cells (`--dry-run`)."""
    return overview(_checked(path, overrides, folder))


def list_commands(path: str, overrides: list[str], folder: str | None) -> str:
    """The command of every run, one a line (`--list`): also of finished ones, so that the n-th stays the n-th."""
    sweep = _checked(path, overrides, folder)
    return "\n".join(command_of(sweep, run) for run in sweep.runs)


def report_sweep(path: str, overrides: list[str], folder: str | None) -> str:
    """Write tables and picture of what is finished (`--report`); the text for the terminal."""
    return _report(read_sweep(path, overrides, folder))


def run_sweep(
    path: str, overrides: list[str], folder: str | None, parallel: int, template: str | None
) -> int:
    """Run what is not finished, and report.

    Returns the exit status: 0 done, 1 a run failed, 138 asked to end (start it again), 128 + n ended by signal n.
    """
    if parallel < 1:
        raise ValueError(f"--parallel is {parallel}: make it at least 1")
    sweep = _checked(path, overrides, folder)
    if template is not None:
        fill_template(template, sweep, sweep.runs[0])
    check_inputs(sweep)
    outcomes: list[Outcome] = []

    def on_end(outcome: Outcome) -> None:
        outcomes.append(outcome)
        _tell(sweep, outcome, handed_over=template is not None)

    ended_by = launch(sweep, parallel, template, on_end)
    if ended_by:
        log.warning("ended by %s; the same command goes on", signal.Signals(ended_by).name)
        return REQUEUE_EXIT_CODE if ended_by in SIGNALS else 128 + ended_by
    failed = [outcome for outcome in outcomes if _has_failed(outcome, template is not None)]
    unfinished = sum(not read_state(run).is_finished for run in sweep.runs)
    if unfinished < len(sweep.runs):
        print(_report(sweep))
    if unfinished and not failed:
        log.info(
            "%d runs are with their launcher; when they are done: modernbert sweep %s --report",
            unfinished,
            path,
        )
    for outcome in failed:
        log.error(
            "FAILED: %s with exit status %d; see %s", outcome.run.name, outcome.status, outcome.log_file
        )
    return 1 if failed else 0


def _checked(path: str, overrides: list[str], folder: str | None) -> Sweep:
    sweep = read_sweep(path, overrides, folder)
    check_run_folders(sweep)
    return sweep


def check_inputs(sweep: Sweep) -> None:
    """Stores, tokenizers and first weights, once for each that differs: not each run is to find out for itself."""
    told: dict[str, str] = {}
    seen = []
    for run in sweep.runs:
        # Weights are needed by what has not begun.
        init = None if list_checkpoints(run.recipe.run_folder) else run.recipe.init
        needs = (run.recipe.data, run.recipe.model, init)
        if needs in seen:
            continue
        seen.append(needs)
        try:
            inputs = open_inputs(run.recipe)
            with closing(inputs.reader):
                if not inputs.valid:
                    raise ValueError("no source has held-out text; tokenize with --valid-fraction above 0")
            if init is not None and init.from_ is not None:
                plan_start(run.recipe, inputs.tokenizer)
        except ValueError as error:
            told.setdefault(str(error), run.cell)
    if told:
        raise ValueError(list_problems(sweep.name, [f"cell {cell}: {text}" for text, cell in told.items()]))


def _has_failed(outcome: Outcome, handed_over: bool) -> bool:
    """A launcher may end well before its run does; our own process not."""
    return outcome.status != 0 or not (handed_over or read_state(outcome.run).is_finished)


def _tell(sweep: Sweep, outcome: Outcome, handed_over: bool) -> None:
    num_finished = sum(read_state(run).is_finished for run in sweep.runs)
    minutes, seconds = divmod(round(outcome.seconds), 60)
    if read_state(outcome.run).is_finished:
        log.info(
            "finished %s in %d:%02d (%d of %d)",
            outcome.run.name,
            minutes,
            seconds,
            num_finished,
            len(sweep.runs),
        )
    elif _has_failed(outcome, handed_over):
        log.error("FAILED: %s with exit status %d", outcome.run.name, outcome.status)
        for line in outcome.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]:
            log.error("    %s", line)
    else:
        log.info("handed over %s", outcome.run.name)


def _report(sweep: Sweep) -> str:
    results = collect(sweep)
    tables = write_tables(sweep, results)
    picture = write_picture(sweep, results)
    page = tables[-1].read_text(encoding="utf-8")
    return page + "\n" + "\n".join(str(path) for path in [*tables, picture])


def overview(sweep: Sweep) -> str:
    """A table with a line for each cell, and the totals."""
    columns = ("cell", "parameters", "tokens a run", "steps a run", "seeds", "finished")
    table = format_table(columns, [_row(cell) for cell in sweep.cells])
    return "\n".join(
        [f"{sweep.name}: {sweep.base} in {len(sweep.cells)} cells", "", table, "", *_totals(sweep)]
    )


def _row(cell: Cell) -> tuple[str, ...]:
    recipe = cell.runs[0].recipe
    plan = build_schedule(recipe)
    return (
        cell.name,
        f"{num_parameters(recipe.model):,}",
        format_tokens(plan.total_tokens),
        f"{plan.total_steps:,}",
        ", ".join(str(run.seed) for run in cell.runs),
        f"{sum(read_state(run).is_finished for run in cell.runs)} of {len(cell.runs)}",
    )


def _totals(sweep: Sweep) -> list[str]:
    plans = [build_schedule(run.recipe) for run in sweep.runs]
    tokens = sum(plan.total_tokens for plan in plans)
    flops = sum(_most_flops(run, plan) for run, plan in zip(sweep.runs, plans, strict=True))
    states = [read_state(run) for run in sweep.runs]
    left = sum(
        plan.total_tokens - plan.tokens_before(min(state.step, plan.total_steps))
        for plan, state in zip(plans, states, strict=True)
    )
    lines = [
        f"in all     {len(plans)} runs, {format_tokens(tokens)} tokens, at most {flops:.1e} FLOPs (every "
        "document as long as the context)",
        f"still left {sum(not state.is_finished for state in states)} runs, {format_tokens(left)} tokens",
    ]
    speed = _measured_speed(sweep)
    if left and speed is not None:
        hours, minutes = divmod(round(left / speed / 60), 60)
        lines.append(
            f"           {hours}:{minutes:02} hours one after another, at the {speed:,.0f} tokens/s so far"
        )
    disk = sum(
        checkpoints_on_disk_bytes(run.recipe, plan) for run, plan in zip(sweep.runs, plans, strict=True)
    )
    return [*lines, f"folder     {sweep.folder}, up to {format_bytes(disk)} of checkpoints"]


def _most_flops(run: Run, plan: RunSchedule) -> float:
    model = run.recipe.model
    return sum(
        phase.num_tokens * training_flops_per_token(model, [phase.config.context_tokens], phase.objective)
        for phase in plan.phases
    )


def _measured_speed(sweep: Sweep) -> float | None:
    """Median of the runs that have begun; of slots of rows, which tokens of a plan are."""
    files = [Path(run.recipe.run_folder) / METRICS_FILE for run in sweep.runs]
    begun = [lines for file in files if file.is_file() and (lines := read_metrics(file).training)]
    speeds = [statistics.median(line["tokens_per_s"] / line["fill"] for line in lines) for lines in begun]
    return statistics.median(speeds) if speeds else None
