"""The initial weights of a run: random, or as `init` says, from another model.

    copy                         the same model: continued pretraining
    tile_middle, tile_edge       a larger model from a smaller one, see `checkpoints.tiling`
    transplant                   with another tokenizer, see `checkpoints.transplant`; applied before tiling

Only used when a run starts for the first time: a restart loads its checkpoint, and no longer needs the source.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modernbert_train.checkpoints.hf.vocabulary import resize_vocabulary
from modernbert_train.checkpoints.source import WeightSource, open_weights
from modernbert_train.checkpoints.tiling import axes, source_name, tile, tiling_problems
from modernbert_train.checkpoints.transplant import TokenMatches, match_tokens, transplant
from modernbert_train.config import InitConfig, ModelConfig, PhaseConfig, Recipe
from modernbert_train.config.architecture import TIED_WEIGHT, unread_fields, weight_shapes
from modernbert_train.config.schema import MODEL_SWITCHES
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
from modernbert_train.store.manifest import TokenizerInfo

log = logging.getLogger(__name__)

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
# Settings that change the computation, but no shape.
_SHAPELESS = ("local_attention", "global_attn_every_n_layers", "norm_eps")


@dataclass(frozen=True)
class Start:
    """The source of a run's initial weights, checked against the recipe."""

    source: WeightSource
    init: InitConfig
    # The recipe's.
    model: ModelConfig
    # None without a transplant.
    matches: TokenMatches | None

    @property
    def source_model(self) -> ModelConfig:
        """The source's model with the recipe's vocabulary size, which tiling starts from."""
        return dataclasses.replace(self.source.model, vocab_size=self.model.vocab_size)


def set_initial_weights(
    model: ModernBertForMaskedLM, recipe: Recipe, tokenizer: TokenizerInfo
) -> Start | None:
    """Fill the model with the weights that a run of `recipe` starts from.

    Returns:
        The source of the weights, for `log_start`; None where they are random.

    Raises:
        ValueError: See `plan_start`.
    """
    if recipe.init.from_ is None:
        initialize_weights(model, recipe.model, torch.Generator().manual_seed(recipe.seed))
        return None
    start = plan_start(recipe, tokenizer)
    model.load_state_dict(initial_weights(start))
    return start


def log_start(start: Start, phase: PhaseConfig) -> None:
    """Log the source of the initial weights, and warn where the first phase differs from their training."""
    for line in describe_start(start):
        log.info("%s", line)
    for line in describe_changes(start, phase):
        log.warning("%s", line)


def plan_start(recipe: Recipe, tokenizer: TokenizerInfo) -> Start:
    """Open the source that `init` of a recipe names, and check that it fits. No weights are read.

    Returns:
        The source and the recipe's model.

    Raises:
        ValueError: There are no weights at `init.from`, they have another tokenizer, architecture or size, or cannot be
            tiled.
    """
    init = recipe.init
    assert init.from_ is not None
    try:
        source = open_weights(init.from_)
    except ValueError as error:
        problem = f"init.from: {error}"
        raise ValueError(problem) from None
    is_same = source.info.tokenizer_fingerprint == tokenizer.fingerprint
    if not is_same and not init.transplant:
        raise ValueError(
            f"init.from: {source.path} was trained with another tokenizer than data.tokenizer "
            f"{recipe.data.tokenizer}; set init.transplant=true to carry over the embeddings of the tokens that both "
            f"have, or tokenize with its tokenizer, {source.folder}/tokenizer.json"
        )
    matches = (
        match_tokens(tokenizer, source.tokenizer(), recipe.model.vocab_size) if init.transplant else None
    )
    start = Start(source, init, recipe.model, matches)
    if problems := list(_problems(start)):
        raise ValueError(f"init.from: {source.path} does not fit the recipe's model: {'; '.join(problems)}")
    return start


def _problems(start: Start) -> Iterator[str]:
    source, model = start.source_model, start.model
    changes = [
        f"model.{switch}: source {getattr(source, switch)}, recipe {getattr(model, switch)}"
        for switch in MODEL_SWITCHES
        if getattr(source, switch) != getattr(model, switch)
    ]
    # Even if all shapes are equal, the computation is not, as with another activation.
    if changes:
        yield f"{', '.join(changes)}; use the model section of the source"
        return
    if start.init.method == "copy":
        yield from _size_problems(source, model)
    else:
        yield from tiling_problems(source, model)


def _size_problems(source: ModelConfig, model: ModelConfig) -> Iterator[str]:
    sizes = (*_SIZES, "max_position_embeddings") if model.positions == "learned" else _SIZES
    changes = [
        f"model.{size}: source {getattr(source, size):,}, recipe {getattr(model, size):,}"
        for size in sizes
        if getattr(source, size) != getattr(model, size)
    ]
    if changes:
        can_tile = not list(tiling_problems(source, model))
        larger = ", or set init.method=tile_middle to start a larger model from it" if can_tile else ""
        yield f"{', '.join(changes)}; use the model section of the source{larger}"


def initial_weights(start: Start) -> dict[str, torch.Tensor]:
    """Return the weights of the recipe's model, on the CPU."""
    weights = start.source.read()
    if start.matches is not None:
        origins, ordinary = map(torch.from_numpy, (start.matches.origins, start.matches.ordinary))
        weights = transplant(weights, origins, ordinary)
    else:
        # Both have the same tokenizer, and differ in rows that no token has.
        weights = resize_vocabulary(weights, start.model.vocab_size)
    if start.init.method != "copy":
        weights = tile(weights, start.source_model, start.model, start.init.method, start.init.rescale)
    return weights


def describe_start(start: Start) -> list[str]:
    """Return lines of text: the source, its layers and tokens, and the shape of every weight in source and recipe."""
    lines = [f"weights from {start.source}", *(f"  {note}" for note in start.source.notes)]
    source, model = start.source_model, start.model
    if source.num_hidden_layers != model.num_hidden_layers:
        origins = [
            source_name(f"model.layers.{layer}.", source, model).split(".")[2]
            for layer in range(model.num_hidden_layers)
        ]
        lines.append(f"layers 0 to {model.num_hidden_layers - 1} start as layers {' '.join(origins)}")
    if start.matches is not None:
        matches = start.matches
        others = matches.num_tokens - matches.num_shared - matches.num_by_role
        lines.append(
            f"tokens: {matches.num_shared:,} of {matches.num_tokens:,} matched by string, "
            f"{matches.num_by_role} by role, {others:,} start as the mean of {len(matches.ordinary):,}"
        )
    num_copied = 0
    for (name, old, new, how), count in _shape_rows(start).items():
        if how == "copied":
            num_copied += count
        else:
            lines.append(f"  {name:<30} {old:>14} -> {new:<14} {how}, {count}")
    if num_copied:
        lines.append(f"  copied unchanged, {num_copied}")
    return lines


def _shape_rows(start: Start) -> Counter[tuple[str, str, str, str]]:
    """Count weights by short name (* for the layer), shape in the source, shape in the recipe, and method."""
    source, model = start.source_model, start.model
    source_shapes, rows = weight_shapes(start.source.model), Counter[tuple[str, str, str, str]]()
    for name, shape in weight_shapes(model).items():
        if name == TIED_WEIGHT:
            continue
        old = source_shapes.get(source_name(name, source, model))
        if old is None:
            how = "new norm"
        elif axes(name, model)[0].size == "vocab_size" and (start.matches or old[0] != shape[0]):
            how = "transplanted" if start.matches else "rows without a token"
            how += "" if old[1:] == shape[1:] else f", {start.init.method}"
        else:
            how = "copied" if old == shape else start.init.method
        kind = re.sub(r"\.\d+\.", ".*.", name.removeprefix("model.").removesuffix(".weight"))
        rows[(kind, _shape_text(old or ()), _shape_text(shape), how)] += 1
    return rows


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape) or "-"


def describe_changes(start: Start, phase: PhaseConfig) -> list[str]:
    """Return a line for each window, norm epsilon or RoPE theta that differs from the weights' training.

    The shapes match either way, so nothing else would show the difference. It may be intended, and costs some loss at
    the start.
    """
    unread, lines = unread_fields(start.model), []
    for name in _SHAPELESS:
        source, recipe = getattr(start.source.model, name), getattr(start.model, name)
        if source != recipe and name not in unread:
            lines.append(f"model.{name}: the weights were trained with {source}, the recipe has {recipe}")
    for name in ("global_rope_theta", "local_rope_theta"):
        source, recipe = getattr(start.source.info, name), getattr(phase, name)
        if source != recipe and name not in unread:
            lines.append(
                f"{name}: the weights were trained with {source:,.0f}, the first phase sets {recipe:,.0f}"
            )
    return lines
