"""`modernbert recipe`: choose a recipe for stores and a machine, and write it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from functools import cache

from modernbert_train.config.validation import RUN_NAME, RUN_NAME_RULE
from modernbert_train.recipe.facts import Text, Weights, read_stores, read_weights
from modernbert_train.recipe.rules import Choice, choose
from modernbert_train.recipe.speed import (
    h100_tokens_per_s,
    measure_cpu_tokens_per_s,
    measure_gpu_tokens_per_s,
)
from modernbert_train.recipe.text import describe_short_run, write_recipe

log = logging.getLogger(__name__)


def make_recipe(
    stores: Sequence[str],
    hours: float,
    num_gpus: int | None = None,
    init: str | None = None,
    name: str | None = None,
) -> str:
    """Choose a recipe.

    Args:
        stores: Folders or URLs of token stores.
        hours: What the run may take.
        num_gpus: GPUs to train on, 0 for the CPU; None: those of this machine, otherwise its CPU.
        init: Weights to start from; None: random weights.
        name: Name of the run; None: that of the first store.

    Returns:
        The recipe as YAML, with comments.

    Raises:
        ValueError: A store or the weights cannot be read, or a store has no tokens.
    """
    if name is not None and not RUN_NAME.fullmatch(name):
        raise ValueError(f"--name is {name!r}: {RUN_NAME_RULE}")
    text = read_stores(list(dict.fromkeys(stores)))
    weights = None if init is None else read_weights(init)
    import torch  # after the stores, whose errors need not wait for it

    asked = torch.cuda.device_count() if num_gpus is None else num_gpus
    if asked == 0:
        log.info("measuring the speed of this CPU")
        choice = choose(text, hours, 0, cache(measure_cpu_tokens_per_s), weights)
        basis = "measured in a few steps on this CPU"
    else:
        choice = choose(text, hours, asked, h100_tokens_per_s, weights)
        basis = "as published for an H100: another GPU takes longer"
        if torch.cuda.is_available():
            device = torch.cuda.get_device_name()
            log.info(
                "measuring the speed of the GPU (%s), which compiles the model first: about a minute", device
            )
            measured = measure_gpu_tokens_per_s(choice.model, choice.micro_batch_tokens)
            choice = choose(text, hours, asked, lambda _: measured, weights, choice.size)
            basis = f"measured in a few steps on one {device}"
    for note in _notes(choice, asked, text, weights):
        log.warning("%s", note)
    where = "--cpu" if num_gpus == 0 else "" if num_gpus is None else f"--gpus {num_gpus}"
    command = f"modernbert recipe {shlex.join(stores)} --hours {hours:g} {where}".rstrip()
    if init is not None:
        command += f" --init {shlex.quote(init)}"
    if name is not None:
        command += f" --name {shlex.quote(name)}"
    return write_recipe(choice, text, weights, basis, command, name)


def _notes(choice: Choice, asked: int, text: Text, weights: Weights | None) -> list[str]:
    notes = []
    if choice.num_gpus < asked:
        notes.append(
            f"the recipe is for {choice.num_gpus} of the {asked} GPUs: the batches of so short a run have too few rows "
            "for more"
        )
    if choice.limited_by_text:
        notes.append(f"the text is the limit, not the hours: the run takes {choice.hours:.2g} hours")
    if note := describe_short_run(choice, text, weights):
        notes.append(note)
    return notes
