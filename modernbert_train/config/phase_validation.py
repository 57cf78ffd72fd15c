"""How the fields of a phase must fit together, and to the rest of the recipe."""

import math
from collections.abc import Iterator

from modernbert_train.config.mixture import check_mixture
from modernbert_train.config.quantities import above_zero, next_multiple, share_of_tokens, zero_or_above
from modernbert_train.config.schema import ModelConfig, PhaseConfig, Recipe

SHORTEST_CONTEXT = 3  # [CLS], one token, [SEP]


def check_phase(recipe: Recipe, name: str, world_size: int) -> Iterator[str]:
    """Yields the problems of one phase on `world_size` ranks."""
    phase, field = recipe.phases[name], f"phases.{name}"
    yield from _check_context(phase, recipe.model, field)
    yield from _check_batch(phase, recipe.data.num_streams, world_size, field)
    yield from _check_schedule(phase, field)
    if phase.batch_ramp is not None:
        yield from _check_ramp(phase, recipe.data.num_streams, field)
    yield from share_of_tokens(f"{field}.mask_rate", phase.mask_rate)
    yield from check_mixture(phase.mixture, list(recipe.data.sources), field)


def _check_context(phase: PhaseConfig, model: ModelConfig, field: str) -> Iterator[str]:
    context = phase.context_tokens
    if context < SHORTEST_CONTEXT:
        yield (
            f"{field}.context_tokens is {context}: make it at least {SHORTEST_CONTEXT}, "
            "for [CLS], one token and [SEP]"
        )
    if context > phase.row_tokens:
        yield (
            f"{field}.context_tokens is {context}, more than row_tokens ({phase.row_tokens}): a piece must "
            "fit into a row; raise row_tokens or lower context_tokens"
        )
    if context > model.max_position_embeddings:
        lacking = ": the positions beyond have no learned embedding" if model.positions == "learned" else ""
        yield (
            f"{field}.context_tokens is {context}, more than model.max_position_embeddings "
            f"({model.max_position_embeddings}){lacking}; raise that or lower context_tokens"
        )


def _check_batch(phase: PhaseConfig, streams: int, world_size: int, field: str) -> Iterator[str]:
    """Batches are whole rows, the same number from each stream; a rank's share of them is whole
    micro-batches.
    """
    row, batch, micro = phase.row_tokens, phase.batch_tokens, phase.micro_batch_tokens
    below = [key for key in ("row_tokens", "batch_tokens", "micro_batch_tokens") if getattr(phase, key) < 1]
    yield from (f"{field}.{key} is {getattr(phase, key)}: make it at least 1" for key in below)
    if below or streams < 1:
        return
    if micro % row:
        yield (
            f"{field}.micro_batch_tokens is {micro}, not a multiple of row_tokens ({row}); "
            f"use {next_multiple(micro, row)}"
        )
    unit = streams * row
    sizes = {"batch_tokens": batch}
    if phase.batch_ramp is not None:
        sizes["batch_ramp.start_tokens"] = phase.batch_ramp.start_tokens
    uneven = {key: size for key, size in sizes.items() if size % unit or size < 1}
    for key, size in uneven.items():
        yield (
            f"{field}.{key} is {size}, not a multiple of {unit}, which is a row from each stream "
            f"(row_tokens {row} x data.num_streams {streams}); use {next_multiple(size, unit)}"
        )
    if uneven or micro % row or streams % world_size:
        return
    # The smaller batches of a ramp are filled up to whole micro-batches; the full one, of most steps, must be whole.
    rank_tokens = batch // world_size
    if rank_tokens % micro:
        yield (
            f"{field}.micro_batch_tokens is {micro}, which does not divide the tokens of a batch "
            f"(batch_tokens {batch}) on each of {world_size} ranks ({rank_tokens}); "
            f"use {math.gcd(rank_tokens, micro)}, or another batch"
        )


def _check_schedule(phase: PhaseConfig, field: str) -> Iterator[str]:
    if phase.tokens < max(1, phase.batch_tokens):
        yield (
            f"{field}.tokens is {phase.tokens}, less than one batch ({phase.batch_tokens}); "
            "lengthen the phase or lower batch_tokens"
        )
    if phase.warmup_tokens + phase.decay_tokens > phase.tokens:
        yield (
            f"{field}.warmup_tokens ({phase.warmup_tokens}) and decay_tokens ({phase.decay_tokens}) do not "
            f"fit into the phase's tokens ({phase.tokens}); shorten them or lengthen the phase"
        )
    reals = {
        "learning_rate": phase.learning_rate,
        "global_rope_theta": phase.global_rope_theta,
        "local_rope_theta": phase.local_rope_theta,
    }
    yield from above_zero(field, reals)
    if phase.weight_decay is not None:
        yield from zero_or_above(f"{field}.weight_decay", phase.weight_decay)
    for key, over in (("start_lr_fraction", "warmup_tokens"), ("final_lr_fraction", "decay_tokens")):
        fraction = getattr(phase, key)
        if not 0 <= fraction <= 1:
            yield f"{field}.{key} is {fraction}: it is a fraction of learning_rate; choose one from 0 to 1"
        elif fraction and not getattr(phase, over):
            yield f"{field}.{key} is {fraction}, and {over} 0: nothing would come of it; set {over}, or {key} to 0"


def _check_ramp(phase: PhaseConfig, streams: int, field: str) -> Iterator[str]:
    ramp = phase.batch_ramp
    assert ramp is not None
    if ramp.start_tokens >= phase.batch_tokens:
        yield (
            f"{field}.batch_ramp.start_tokens is {ramp.start_tokens}, not below batch_tokens "
            f"({phase.batch_tokens}): there is nothing to grow; lower it, or set batch_ramp to null"
        )
        return
    if not 0 < ramp.tokens <= phase.tokens:
        yield (
            f"{field}.batch_ramp.tokens is {ramp.tokens}: a ramp takes a part of the phase; choose a number "
            f"from 1 to the phase's tokens ({phase.tokens})"
        )
        return
    unit = max(1, streams * phase.row_tokens)
    shortest = sum(range(ramp.start_tokens, phase.batch_tokens, unit))
    if ramp.tokens < shortest:
        yield (
            f"{field}.batch_ramp.tokens is {ramp.tokens}: a single step at each batch size from "
            f"{ramp.start_tokens} up to {phase.batch_tokens} (by {unit}, a row from each stream) already "
            f"takes {shortest}; raise tokens to that or more, or raise start_tokens"
        )
