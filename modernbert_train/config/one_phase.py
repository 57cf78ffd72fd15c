"""`phase: NAME`: a single phase of a recipe, run by itself."""

import dataclasses
from collections.abc import Iterator

from modernbert_train.config.fields import did_you_mean
from modernbert_train.config.schema import Recipe


def check_choice(recipe: Recipe) -> Iterator[str]:
    """Yields why the phase that a whole recipe asks for cannot be run alone."""
    names = list(recipe.phases)
    if recipe.phase is None or not names:
        return
    if recipe.phase not in names:
        near = did_you_mean(recipe.phase, names) or f"; there is {', '.join(names)}"
        yield f"phase is {recipe.phase!r}, which is not in phases{near}"
    elif recipe.phase != names[0] and recipe.init.from_ is None:
        before = names[names.index(recipe.phase) - 1]
        yield (
            f"phase is {recipe.phase}, which goes on from the weights that the phase {before} has left, and init.from "
            f"is not set; name a run folder or a checkpoint, such as init.from=runs/{recipe.name}"
        )


def fill_in_run_folder(recipe: Recipe) -> str:
    """Returns the run folder with `{name}` filled in. A phase of several that is run alone has one of its own."""
    ending = "" if recipe.phase is None or list(recipe.phases) == [recipe.phase] else f"-{recipe.phase}"
    if "{name}" in recipe.run_folder:
        return recipe.run_folder.replace("{name}", recipe.name + ending)
    return recipe.run_folder.rstrip("/") + ending if ending else recipe.run_folder


def choose_phase(recipe: Recipe) -> Recipe:
    """Returns the recipe of the one phase that a sound recipe asks for; itself if it asks for none.

    What that phase inherits from those before must have been filled in.
    """
    if recipe.phase is None:
        return recipe
    return dataclasses.replace(recipe, phases={recipe.phase: recipe.phases[recipe.phase]})
