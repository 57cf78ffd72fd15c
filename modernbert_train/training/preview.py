"""`--dry-run`: the recipe's figures, with what the stores tell where they are at hand."""

from __future__ import annotations

from contextlib import closing

from modernbert_train.config import Recipe
from modernbert_train.data.manifest import load_tokenizer_info
from modernbert_train.data.remote import open_tokenizer
from modernbert_train.optim.schedule import plan_run
from modernbert_train.training.contributions import phase_data
from modernbert_train.training.dry_run import describe
from modernbert_train.training.inputs import open_cache, open_inputs, plan_rows


def preview(recipe: Recipe) -> str:
    """Everything that is known before the first step. What is wrong with the stores is said, the rest still shown."""
    return "\n\n".join(filter(None, [_figures(recipe), _start(recipe)]))


def _start(recipe: Recipe) -> str:
    if recipe.init.from_ is None:
        return ""
    # Only here is torch wanted, for the shapes of a model.
    from modernbert_train.training.first_weights import describe_changes, describe_start, plan_start

    try:
        tokenizer = load_tokenizer_info(open_tokenizer(recipe.data.tokenizer, open_cache(recipe.data)))
        start = plan_start(recipe, tokenizer)
        changes = describe_changes(start, next(iter(recipe.phases.values())))
        return "\n".join([*describe_start(start), *changes])
    except ValueError as error:
        return f"without the plan of the first weights: {error}"


def _figures(recipe: Recipe) -> str:
    plan = plan_run(recipe)
    try:
        inputs = open_inputs(recipe)
    except ValueError as error:
        return f"{describe(recipe, plan)}\n\nwithout passes and fill: {error}"
    with closing(inputs.reader):
        return describe(recipe, plan, phase_data(plan, plan_rows(recipe, plan, inputs)))
