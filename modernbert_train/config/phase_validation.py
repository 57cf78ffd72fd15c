"""Check that the values of a phase fit together, and fit the rest of the recipe."""

from collections.abc import Iterable, Iterator

from modernbert_train.config.mixture import check_mixture
from modernbert_train.config.quantities import (
    check_at_least_one,
    check_not_negative,
    check_positive,
    check_share,
    nearest_divisors,
    nearest_multiples,
)
from modernbert_train.config.schema import ModelConfig, PhaseConfig, Recipe

SHORTEST_CONTEXT = 3  # [CLS], one token, [SEP]


def check_phase(recipe: Recipe, name: str) -> Iterator[str]:
    """Yield the problems of one phase."""
    phase, field = recipe.phases[name], f"phases.{name}"
    yield from _check_context(phase, recipe.model, field)
    yield from _check_batch(phase, recipe.data.num_streams, field)
    yield from _check_schedule(phase, field)
    if phase.batch_ramp is not None:
        yield from _check_ramp(phase, recipe.data.num_streams, field)
    yield from check_share(f"{field}.mask_rate", phase.mask_rate)
    yield from check_mixture(phase.mixture, list(recipe.data.sources), field)


def _check_context(phase: PhaseConfig, model: ModelConfig, field: str) -> Iterator[str]:
    context = phase.context_tokens
    if context < SHORTEST_CONTEXT:
        yield (
            f"{field}.context_tokens is {context}: must be at least {SHORTEST_CONTEXT}, for [CLS], one token and [SEP]"
        )
    if context > phase.row_tokens:
        yield (
            f"{field}.context_tokens is {context}, more than row_tokens ({phase.row_tokens}), but a piece must "
            "fit into a row; raise row_tokens or lower context_tokens"
        )
    if context > model.max_position_embeddings:
        reason = ", and there are no learned positions beyond" if model.positions == "learned" else ""
        yield (
            f"{field}.context_tokens is {context}, more than model.max_position_embeddings "
            f"({model.max_position_embeddings}){reason}; raise that or lower context_tokens"
        )


def _check_batch(phase: PhaseConfig, streams: int, field: str) -> Iterator[str]:
    """Check that a batch has the same number of whole rows of each stream, and that micro-batches have whole rows."""
    row, batch, micro = phase.row_tokens, phase.batch_tokens, phase.micro_batch_tokens
    yield from check_at_least_one(
        f"{field}.", {"row_tokens": row, "batch_tokens": batch, "micro_batch_tokens": micro}
    )
    if min(row, batch, micro, streams) < 1:
        return
    if micro % row:
        yield (
            f"{field}.micro_batch_tokens is {micro}, not a multiple of row_tokens ({row}); "
            f"use {nearest_multiples(micro, row)}, or leave it out for one row"
        )
    unit = streams * row
    for key, size in batch_sizes(phase).items():
        if size >= 1 and size % unit == 0:
            continue
        ways = [f"{key} {nearest_multiples(size, unit)}", *_other_ways(phase, size, streams)]
        yield (
            f"{field}.{key} is {size}, not a multiple of {unit}, one row of each stream "
            f"(row_tokens {row} x data.num_streams {streams}); use {', or '.join(ways)}"
        )


def batch_sizes(phase: PhaseConfig) -> dict[str, int]:
    """Return the sizes that are whole rows of each stream: that of the batch, and of the first one of a ramp."""
    sizes = {"batch_tokens": phase.batch_tokens}
    if phase.batch_ramp is not None:
        sizes["batch_ramp.start_tokens"] = phase.batch_ramp.start_tokens
    return sizes


def _other_ways(phase: PhaseConfig, size: int, streams: int) -> Iterator[str]:
    """Yield numbers of streams and lengths of rows that divide a batch of `size` tokens, nearest to those it has."""
    if size > 0 and size % phase.row_tokens == 0:
        yield f"data.num_streams {_either(nearest_divisors(size // phase.row_tokens, streams))} (auto chooses it)"
    if size > 0 and size % streams == 0 and phase.context_tokens > 0:
        rows = nearest_divisors(size // streams, phase.row_tokens, least=phase.context_tokens)
        if rows:
            yield f"row_tokens {_either(rows)}"


def _either(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, dict.fromkeys(numbers)))


def _check_schedule(phase: PhaseConfig, field: str) -> Iterator[str]:
    if phase.tokens < max(1, phase.batch_tokens):
        yield (
            f"{field}.tokens is {phase.tokens}, less than one batch ({phase.batch_tokens}); "
            "lengthen the phase or lower batch_tokens"
        )
    if phase.warmup_tokens + phase.decay_tokens > phase.tokens:
        yield (
            f"{field}.warmup_tokens ({phase.warmup_tokens}) and decay_tokens ({phase.decay_tokens}) are together more "
            f"than the phase's tokens ({phase.tokens}); shorten them or lengthen the phase"
        )
    reals = {
        "learning_rate": phase.learning_rate,
        "global_rope_theta": phase.global_rope_theta,
        "local_rope_theta": phase.local_rope_theta,
    }
    yield from check_positive(f"{field}.", reals)
    if phase.weight_decay is not None:
        yield from check_not_negative(f"{field}.weight_decay", phase.weight_decay)
    for key, over in (("start_lr_fraction", "warmup_tokens"), ("final_lr_fraction", "decay_tokens")):
        fraction = getattr(phase, key)
        if not 0 <= fraction <= 1:
            yield f"{field}.{key} is {fraction}: must be from 0 to 1, a fraction of learning_rate"
        elif fraction and not getattr(phase, over):
            yield f"{field}.{key} is {fraction}, but {over} is 0, so it has no effect; set {over}, or {key} to 0"


def _check_ramp(phase: PhaseConfig, streams: int, field: str) -> Iterator[str]:
    ramp = phase.batch_ramp
    assert ramp is not None
    if ramp.start_tokens >= phase.batch_tokens:
        yield (
            f"{field}.batch_ramp.start_tokens is {ramp.start_tokens}: must be less than batch_tokens "
            f"({phase.batch_tokens}); lower it, or set batch_ramp to null"
        )
        return
    if not 0 < ramp.tokens <= phase.tokens:
        yield (
            f"{field}.batch_ramp.tokens is {ramp.tokens}: must be from 1 to the phase's tokens ({phase.tokens})"
        )
        return
    unit = max(1, streams * phase.row_tokens)
    shortest = sum(range(ramp.start_tokens, phase.batch_tokens, unit))
    if ramp.tokens < shortest:
        yield (
            f"{field}.batch_ramp.tokens is {ramp.tokens}, but one step at each batch size from {ramp.start_tokens} to "
            f"{phase.batch_tokens}, in increments of {unit} (one row of each stream), needs {shortest}; raise tokens "
            "to that or more, or raise start_tokens"
        )
