"""The weights a run begins with: random ones, or by `init` those of another model.

    copy                         the same model: continued pretraining
    tile_middle, tile_edge       a larger model from a smaller one, see `model.tiling`
    transplant                   with another tokenizer, see `model.transplant`; before tiling, if both

Only the first start of a run comes here: a restart takes its checkpoint's weights, and needs what `init` names
no longer.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

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
_MATHEMATICS = ("local_attention", "global_attn_every_n_layers", "norm_eps")  # that no shape tells of


@dataclass(frozen=True)
class Start:
    """What a run begins from, checked against its recipe."""

    source: WeightSource
    init: InitConfig
    model: ModelConfig  # of the recipe
    matches: TokenMatches | None  # of a transplant

    @property
    def source_model(self) -> ModelConfig:
        """The source's model; with the recipe's vocabulary, where that is transplanted."""
        if self.matches is None:
            return self.source.model
        return dataclasses.replace(self.source.model, vocab_size=self.model.vocab_size)


def set_first_weights(model: ModernBertForMaskedLM, recipe: Recipe, tokenizer: TokenizerInfo) -> Start | None:
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
    model.load_state_dict(first_weights(start))
    return start


def log_start(start: Start, phase: PhaseConfig) -> None:
    """Log the source of the first weights, and warn where the first phase differs from their training."""
    for line in describe_start(start):
        log.info("%s", line)
    for line in describe_changes(start, phase):
        log.warning("%s", line)


def plan_start(recipe: Recipe, tokenizer: TokenizerInfo) -> Start:
    """What `init` of a recipe comes to; no weights are read.

    ValueError names what does not fit: nothing at `init.from`, another tokenizer, another architecture, a
    model of another size, or one that cannot be tiled.
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
            f"have, or tokenize with its own, {source.folder}/tokenizer.json"
        )
    matches = (
        match_tokens(tokenizer, source.tokenizer(), recipe.model.vocab_size) if init.transplant else None
    )
    start = Start(source, init, recipe.model, matches)
    if problems := list(_problems(start)):
        raise ValueError(f"init.from: {source.path} does not fit the recipe's model: {'; '.join(problems)}")
    return start


def _problems(start: Start) -> Iterator[str]:
    there, here = start.source_model, start.model
    changes = [
        f"model.{switch} is {getattr(there, switch)} there and {getattr(here, switch)} here"
        for switch in MODEL_SWITCHES
        if getattr(there, switch) != getattr(here, switch)
    ]
    if changes:  # equal shapes may be of another mathematics, such as another activation
        yield f"{', '.join(changes)}; use the model section of the run it comes from"
        return
    if there.vocab_size != here.vocab_size:
        yield (
            f"model.vocab_size is {there.vocab_size:,} there and {here.vocab_size:,} here; make it "
            f"{there.vocab_size:,}, or set init.transplant=true"
        )
    if start.init.method == "copy":
        yield from _size_problems(there, here)
    else:
        yield from tiling_problems(there, here)


def _size_problems(there: ModelConfig, here: ModelConfig) -> Iterator[str]:
    sizes = (*_SIZES, "max_position_embeddings") if here.positions == "learned" else _SIZES
    changes = [
        f"model.{size} is {getattr(there, size):,} there and {getattr(here, size):,} here"
        for size in sizes
        if getattr(there, size) != getattr(here, size)
    ]
    if changes:
        can_tile = not list(tiling_problems(there, here))
        larger = ", or set init.method=tile_middle to begin a larger model with it" if can_tile else ""
        yield f"{', '.join(changes)}; use the model section of the run it comes from{larger}"


def first_weights(start: Start) -> dict[str, torch.Tensor]:
    """The weights of the recipe's model, on the CPU."""
    weights = start.source.read()
    if start.matches is not None:
        origins, ordinary = map(torch.from_numpy, (start.matches.origins, start.matches.ordinary))
        weights = transplant(weights, origins, ordinary)
    if start.init.method != "copy":
        weights = tile(weights, start.source_model, start.model, start.init.method, start.init.rescale)
    return weights


def describe_start(start: Start) -> list[str]:
    """The plan as lines of text: source, layers, tokens, and the shape of every weight there and here."""
    lines = [f"weights from {start.source}"]
    there, here = start.source_model, start.model
    if there.num_hidden_layers != here.num_hidden_layers:
        origins = [
            source_name(f"model.layers.{layer}.", there, here).split(".")[2]
            for layer in range(here.num_hidden_layers)
        ]
        lines.append(f"layers 0 to {here.num_hidden_layers - 1} begin as layers {' '.join(origins)}")
    if start.matches is not None:
        matches = start.matches
        others = matches.num_tokens - matches.num_shared - matches.num_by_role
        lines.append(
            f"tokens: {matches.num_shared:,} of {matches.num_tokens:,} carried over by their string, "
            f"{matches.num_by_role} by their role, {others:,} begin as the mean of {len(matches.ordinary):,}"
        )
    num_copied = 0
    for (name, old, new, how), count in _shape_rows(start).items():
        if how == "copied":
            num_copied += count
        else:
            lines.append(f"  {name:<30} {old:>14} -> {new:<14} {how}, {count}")
    if num_copied:
        lines.append(f"  copied as they are, {num_copied}")
    return lines


def _shape_rows(start: Start) -> Counter[tuple[str, str, str, str]]:
    """(Name with * for the layer, short, shape there, shape here, what is done) -> for how many weights."""
    there, here = start.source_model, start.model
    shapes_there, rows = weight_shapes(start.source.model), Counter[tuple[str, str, str, str]]()
    for name, shape in weight_shapes(here).items():
        if name == TIED_WEIGHT:
            continue
        old = shapes_there.get(source_name(name, there, here))
        if old is None:
            how = "a fresh norm"
        elif start.matches is not None and axes(name, here)[0].size == "vocab_size":
            how = "transplanted" if old[1:] == shape[1:] else f"transplanted, {start.init.method}"
        else:
            how = "copied" if old == shape else start.init.method
        kind = re.sub(r"\.\d+\.", ".*.", name.removeprefix("model.").removesuffix(".weight"))
        rows[(kind, _shape_text(old or ()), _shape_text(shape), how)] += 1
    return rows


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape) or "-"


def describe_changes(start: Start, phase: PhaseConfig) -> list[str]:
    """What the weights were trained with and the first phase is without, as lines of text.

    They would fit either way, so that nothing else shows it; it may be what is wanted, and costs at the start.
    """
    unread, lines = unread_fields(start.model), []
    for name in _MATHEMATICS:
        there, here = getattr(start.source.model, name), getattr(start.model, name)
        if there != here and name not in unread:
            lines.append(f"model.{name}: the weights were trained with {there}, the recipe has {here}")
    for name in ("global_rope_theta", "local_rope_theta"):
        there, here = getattr(start.source.info, name), getattr(phase, name)
        if there != here and name not in unread:
            lines.append(
                f"{name}: the weights were trained with {there:,.0f}, the first phase sets {here:,.0f}"
            )
    return lines
