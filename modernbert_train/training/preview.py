"""`--dry-run`: the recipe's figures, with what the stores tell where they are at hand."""

from __future__ import annotations

from contextlib import closing

from modernbert_train.config import Recipe
from modernbert_train.data.loader import PhaseRows
from modernbert_train.data.manifest import load_tokenizer_info
from modernbert_train.optim.schedule import PhasePlan, plan_run
from modernbert_train.training.dry_run import PhaseData, describe
from modernbert_train.training.first_weights import describe_start, plan_start
from modernbert_train.training.inputs import open_inputs, plan_rows

_STREAMS_LOOKED_AT = 2  # for the fill: one window of each


def preview(recipe: Recipe) -> str:
    """Everything that is known before the first step. What is wrong with the stores is said, the rest still shown."""
    return "\n\n".join(filter(None, [_figures(recipe), _start(recipe)]))


def _start(recipe: Recipe) -> str:
    if recipe.init.from_ is None:
        return ""
    try:
        return "\n".join(describe_start(plan_start(recipe, load_tokenizer_info(recipe.data.tokenizer))))
    except ValueError as error:
        return f"without the plan of the first weights: {error}"


def _figures(recipe: Recipe) -> str:
    plan = plan_run(recipe)
    try:
        inputs = open_inputs(recipe)
    except ValueError as error:
        return f"{describe(recipe, plan)}\n\nwithout passes and fill: {error}"
    with closing(inputs.reader):
        rows = plan_rows(recipe, plan, inputs)
    figures = [_phase_data(phase, phase_rows) for phase, phase_rows in zip(plan.phases, rows, strict=True)]
    return describe(recipe, plan, figures)


def _phase_data(phase: PhasePlan, rows: PhaseRows) -> PhaseData:
    windows = [rows.plan.window(stream, 0) for stream in range(min(_STREAMS_LOOKED_AT, rows.plan.streams))]
    slots = sum(window.num_rows for window in windows) * rows.plan.row_tokens
    used = sum(window.slots_used() for window in windows)
    content = sum(int(window.piece_tokens.sum()) for window in windows)
    passes = {
        name: phase.num_tokens * (content / slots) * share / rows.plan.sources[name].num_tokens
        for name, share in phase.config.mixture.items()
    }
    return PhaseData(passes=passes, fill=used / slots)
