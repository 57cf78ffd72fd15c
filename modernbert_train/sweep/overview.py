"""A sweep before it is run: its cells, how far each is, and what is still to be done."""

from __future__ import annotations

import statistics
from pathlib import Path

from modernbert_train.config import format_tokens
from modernbert_train.evaluation.masked_lm import format_table
from modernbert_train.evaluation.report import read_metrics
from modernbert_train.optim.schedule import RunPlan, plan_run
from modernbert_train.sweep.definition import Cell, Run, Sweep
from modernbert_train.sweep.state import read_state
from modernbert_train.training.dry_run import checkpoints_on_disk_bytes
from modernbert_train.training.flops import training_flops_per_token
from modernbert_train.training.model_size import num_parameters
from modernbert_train.training.run_files import METRICS_FILE


def overview(sweep: Sweep) -> str:
    """A table with a line for each cell, and the totals."""
    columns = ("cell", "parameters", "tokens a run", "steps a run", "seeds", "finished")
    table = format_table(columns, [_row(cell) for cell in sweep.cells])
    return "\n".join(
        [f"{sweep.name}: {sweep.base} in {len(sweep.cells)} cells", "", table, "", *_totals(sweep)]
    )


def _row(cell: Cell) -> tuple[str, ...]:
    recipe = cell.runs[0].recipe
    plan = plan_run(recipe)
    return (
        cell.name,
        f"{num_parameters(recipe.model):,}",
        format_tokens(plan.total_tokens),
        f"{plan.total_steps:,}",
        ", ".join(str(run.seed) for run in cell.runs),
        f"{sum(read_state(run).is_finished for run in cell.runs)} of {len(cell.runs)}",
    )


def _totals(sweep: Sweep) -> list[str]:
    plans = [plan_run(run.recipe) for run in sweep.runs]
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
    return [*lines, f"folder     {sweep.folder}, up to {disk / 1e9:,.1f} GB of checkpoints"]


def _most_flops(run: Run, plan: RunPlan) -> float:
    model = run.recipe.model
    return sum(
        phase.num_tokens * training_flops_per_token(model, [phase.config.context_tokens], phase.mask_rate)
        for phase in plan.phases
    )


def _measured_speed(sweep: Sweep) -> float | None:
    """Median of the runs that have begun; of slots of rows, which tokens of a plan are."""
    files = [Path(run.recipe.run_folder) / METRICS_FILE for run in sweep.runs]
    begun = [read_metrics(file).training for file in files if file.is_file() and file.stat().st_size]
    speeds = [statistics.median(line["tokens_per_s"] / line["fill"] for line in lines) for lines in begun]
    return statistics.median(speeds) if speeds else None
