"""What a recipe leaves out: inherited fields of phases, and the fields that say `auto` in `schema.py`.

The rules depend on the recipe, its tokenizer and its initial weights alone, never on the number of ranks, so that a
run reads the same data on any number of them. A loaded recipe has numbers in place of `auto`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from modernbert_train.config.architecture import ARCHITECTURE_FIELDS
from modernbert_train.config.schema import (
    AUTO,
    INHERITED_FIELDS,
    DataConfig,
    ModelConfig,
    PhaseConfig,
    Recipe,
)
from modernbert_train.store.vocabulary import padded_vocab_size

# Reads the architecture of the weights that `init.from` names.
ReadModel = Callable[[str], ModelConfig]

# Rows of a batch from which on they may be as long as PhaseConfig.row_tokens: fewer cannot be shared by several ranks.
FEWEST_ROWS = 8

_FROM_WEIGHTS = (*ARCHITECTURE_FIELDS, "max_position_embeddings")
_THETAS = ("global_rope_theta", "local_rope_theta")


def fill_in_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe with inherited fields, rows, micro-batches and streams filled in.

    Values of the wrong type, or missing where they must be set, are left as they are; their errors follow.
    """
    data, phases = values.get("data"), values.get("phases")
    stated = data.get("num_streams", AUTO) if isinstance(data, dict) else AUTO
    num_streams = stated if _is_count(stated) else None
    if isinstance(phases, dict):
        phases = {
            name: _with_rows(phase, num_streams) if isinstance(phase, dict) else phase
            for name, phase in _inherit(phases, data).items()
        }
        values = {**values, "phases": phases}
    if isinstance(data, dict) and stated == AUTO:
        whole = [phase for phase in (phases or {}).values() if isinstance(phase, dict)]
        streams = choose_streams([rows for phase in whole for rows in _row_counts(phase)], _nodes(data))
        values = {**values, "data": {**data, "num_streams": streams}}
    return values


def _inherit(phases: dict[str, Any], data: Any) -> dict[str, Any]:
    """Return the phases with the fields they inherit from the phase before; a length of rows may be `auto`.

    The mixture of a recipe with a single source may be left out.
    """
    filled: dict[str, Any] = {}
    before: dict[str, Any] = {"row_tokens": AUTO, "micro_batch_tokens": AUTO}
    sources = data.get("sources") if isinstance(data, dict) else None
    if isinstance(sources, dict) and len(sources) == 1:
        before["mixture"] = {"shares": dict.fromkeys(sources, 1.0)}
    for name, phase in phases.items():
        if isinstance(phase, dict):  # anything else is reported later, as a value of the wrong type
            phase = before = {key: before[key] for key in INHERITED_FIELDS if key in before} | phase
        filled[name] = phase
    return filled


def _with_rows(phase: dict[str, Any], num_streams: int | None) -> dict[str, Any]:
    row, micro = phase["row_tokens"], phase["micro_batch_tokens"]
    if row == AUTO:
        context = phase.get("context_tokens", PhaseConfig.context_tokens)
        row = choose_row_tokens(context, math.gcd(*_batch_sizes(phase)), num_streams)
    return {**phase, "row_tokens": row, "micro_batch_tokens": row if micro == AUTO else micro}


def _batch_sizes(phase: Mapping[str, Any]) -> list[int]:
    """Return batch_tokens and the start of the ramp, as far as they are set."""
    ramp = phase.get("batch_ramp")
    sizes = [phase.get("batch_tokens"), ramp.get("start_tokens") if isinstance(ramp, dict) else None]
    return [size for size in sizes if _is_count(size)]


def _row_counts(phase: Mapping[str, Any]) -> list[int]:
    row = phase["row_tokens"]
    if not _is_count(row):
        return []
    return [size // row for size in _batch_sizes(phase) if size % row == 0]


def _nodes(data: Mapping[str, Any]) -> int:
    nodes = data.get("num_canonical_nodes", DataConfig.num_canonical_nodes)
    return nodes if _is_count(nodes) else 1


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def choose_row_tokens(context_tokens: int, batch_tokens: int, num_streams: int | None) -> int:
    """Choose the length of the rows of a phase.

    Args:
        context_tokens: Longest piece.
        batch_tokens: What rows must divide: the batch, or the greatest common divisor of all batch sizes; 0: unknown.
        num_streams: Streams that share the rows of each batch equally; None: not yet chosen.

    Returns:
        The longest length up to 8,192 (or the context, if that is longer) that gives every stream a row and, if
        possible, FEWEST_ROWS in all; the context if nothing divides the batch.
    """
    per_stream, rest = divmod(batch_tokens, num_streams or 1)
    longest = max(context_tokens, PhaseConfig.row_tokens)
    if per_stream == 0:
        return longest
    lengths = (
        [] if rest else [row for row in range(context_tokens, longest + 1) if row and per_stream % row == 0]
    )
    several = [row for row in lengths if num_streams is not None or batch_tokens // row >= FEWEST_ROWS]
    return max(several) if several else min(lengths, default=context_tokens)


def choose_streams(row_counts: list[int], num_nodes: int = 1) -> int:
    """Choose the number of streams.

    Args:
        row_counts: Rows of every batch of every phase.
        num_nodes: Canonical nodes, which divide the streams.

    Returns:
        The largest number up to 64 that divides all row counts, a multiple of `num_nodes` if there is one.
    """
    if not row_counts:
        return DataConfig.num_streams
    shared = math.gcd(*row_counts)
    numbers = [number for number in range(1, DataConfig.num_streams + 1) if shared % number == 0]
    return max([number for number in numbers if number % num_nodes == 0] or numbers)


def fill_in_model(recipe: Recipe, values: Mapping[str, Any], read_model: ReadModel | None) -> Recipe:
    """Return the recipe with the fields of the model that it leaves out, and its vocabulary padded.

    Args:
        recipe: The recipe, with the schema's defaults in these fields.
        values: The fields that the recipe sets, and those that its phases inherit.
        read_model: Reads the architecture of `init.from`; None: the schema's defaults stay.

    Returns:
        The recipe, with vocab_size from the tokenizer, and all else, also the thetas of RoPE of phases that have none,
        from the initial weights if it has any.

    Raises:
        ValueError: The tokenizer cannot be read, or the initial weights of a run that has begun.
    """
    if recipe.model.vocab_size > 0:  # anything else is an error that follows
        rows = padded_vocab_size(recipe.model.vocab_size)
        recipe = replace(recipe, model=replace(recipe.model, vocab_size=rows))
    stated = values.get("model", {})
    left_out = [f"model.{name}" for name in _FROM_WEIGHTS if name not in stated]
    thetas = {
        name: [theta for theta in _THETAS if theta not in values["phases"][name]] for name in recipe.phases
    }
    left_out += [f"phases.{name}.{theta}" for name, missing in thetas.items() for theta in missing]
    if recipe.init.from_ is not None and read_model is not None and left_out:
        try:
            weights = read_model(recipe.init.from_)
        except ValueError as error:
            recorded = Path(recipe.run_folder) / "recipe.yaml"
            if recorded.exists():
                raise ValueError(
                    f"init.from: {error} (the recipe leaves out {left_out[0]}, which is that of the weights; this "
                    f"run has begun and can also be resumed with {recorded}, which has all values)"
                ) from None
            # A new run ends with this error when it reads the weights; a dry run shows the rest of the recipe.
            weights = recipe.model
        else:
            phases = {
                name: replace(phase, **{theta: getattr(weights, theta) for theta in thetas[name]})
                for name, phase in recipe.phases.items()
            }
            recipe = replace(recipe, phases=phases)
        of_weights = {name: getattr(weights, name) for name in _FROM_WEIGHTS if name not in stated}
        recipe = replace(recipe, model=replace(recipe.model, **of_weights))
        if not recipe.init.transplant:
            return recipe
    if "vocab_size" in stated:
        return recipe
    return replace(recipe, model=replace(recipe.model, vocab_size=_vocabulary(recipe.data)))


def _vocabulary(data: DataConfig) -> int:
    # Only here, because reading a recipe that states everything is faster without.
    from modernbert_train.config.cache import open_cache
    from modernbert_train.store.opening import open_tokenizer
    from modernbert_train.store.tokenizer import load_tokenizer_info

    try:
        return load_tokenizer_info(open_tokenizer(data.tokenizer, open_cache(data))).vocab_size
    except ValueError as error:
        raise ValueError(
            f"data.tokenizer: {error} (the recipe leaves out model.vocab_size, which follows from the tokenizer)"
        ) from None
