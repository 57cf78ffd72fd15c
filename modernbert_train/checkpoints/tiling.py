"""A larger model's first weights from a smaller, trained one: tiling.

Every axis of a weight is lengthened by repeating it, and every layer of the larger model takes one of the
smaller one's. An axis of 3 becomes one of 8 as

    tile_middle    b c | a b c | a b c     the smaller one in the middle, wrapping around to both sides
    tile_edge      a b c | a b c | a b     from the start on

All weights that read or write the residual stream, or the inner dimensions of an MLP, repeat the same
dimensions, so what belonged together still does; what is fused, query, key and value in Wqkv, value and gate
in Wi, is tiled part by part.

A sum over repeated dimensions counts them as often as they are repeated: attention becomes sharper, logits
larger, and the larger model may start worse than a random one. With `rescale` each input that is repeated n
times is weighed by 1/n, so that sums stay as they were. The decoder, whose matrix is the embedding, is spared;
the norm before it is weighed instead. As wide as a whole multiple, and no deeper, the larger model then
computes what the smaller one did; else nearly so (a norm's mean and variance count the repeated dimensions).

Sources: HyperCloning (2409.12903) for the rescaling; for all else, which is without it,
`tile_weights_from_middle`, `tile_weights_from_edge` (src/bert_layers/initialization.py) and
`init_model_from_pretrained` (src/bert_layers/model.py) of github.com/AnswerDotAI/ModernBERT; ModernBERT-large
began so (2412.13663, section 2.2.2 and appendix), with the layers of Gopher (2112.11446). One thing differs:
there the dimensions of attention are centred one by one, here head by head. That is the same where the numbers
of heads differ by an even number, as from base to large; else theirs would begin in the middle of a head,
whose dimensions are rotated in pairs that belong together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import is_gated, weight_shapes

TileMethod = Literal["tile_middle", "tile_edge"]

_LAYER = "model.layers."
_BEFORE_DECODER = "head.norm."


@dataclass(frozen=True)
class Axis:
    """What one axis of a weight counts."""

    size: str  # a field of ModelConfig
    by_heads: bool = False  # heads stay whole
    parts: int = 1  # matrices fused along it, one after the other


_HIDDEN, _INNER = Axis("hidden_size"), Axis("intermediate_size")
_HEADS = Axis("hidden_size", by_heads=True)
_VOCABULARY = Axis("vocab_size")
# End of a weight's name -> its axes. What is not here is a norm, or a bias, of the residual stream's size.
_AXES = {
    "tok_embeddings.weight": (_VOCABULARY, _HIDDEN),
    "position_embeddings.weight": (Axis("max_position_embeddings"), _HIDDEN),
    "attn.Wqkv.weight": (replace(_HEADS, parts=3), _HIDDEN),
    "attn.Wqkv.bias": (replace(_HEADS, parts=3),),
    "attn.Wo.weight": (_HIDDEN, _HEADS),
    "mlp.Wi.weight": (_INNER, _HIDDEN),
    "mlp.Wi.bias": (_INNER,),
    "mlp.Wo.weight": (_HIDDEN, _INNER),
    "head.dense.weight": (_HIDDEN, _HIDDEN),
    "decoder.weight": (_VOCABULARY, _HIDDEN),
    "decoder.bias": (_VOCABULARY,),
}


def axes(name: str, model: ModelConfig) -> tuple[Axis, ...]:
    """What the axes of the weight `name` count."""
    found = next((axes for end, axes in _AXES.items() if name.endswith(end)), (_HIDDEN,))
    if ".mlp.Wi." in name and is_gated(model):  # value and gate
        return (replace(found[0], parts=2), *found[1:])
    return found


def tile_indices(source_size: int, target_size: int, method: TileMethod) -> torch.Tensor:
    """Which of `source_size` positions stands at each of `target_size`: [target_size]."""
    offset = (target_size - source_size) // 2 if method == "tile_middle" else 0
    return (torch.arange(target_size) - offset) % source_size


def layer_sources(source_layers: int, target_layers: int) -> list[int]:
    """Which layer of the smaller model each layer of the larger one begins as: round(i * source / target)."""
    # A half goes to the even neighbour, as in the source; from 2 source layers to 5, it would go beyond the last.
    return [
        min(round(layer * source_layers / target_layers), source_layers - 1) for layer in range(target_layers)
    ]


def source_name(name: str, source: ModelConfig, target: ModelConfig) -> str:
    """The name, in the smaller model, of what the weight `name` of the larger one begins as."""
    if not name.startswith(_LAYER):
        return name
    layer, rest = name.removeprefix(_LAYER).split(".", 1)
    return f"{_LAYER}{layer_sources(source.num_hidden_layers, target.num_hidden_layers)[int(layer)]}.{rest}"


def tile(
    weights: dict[str, torch.Tensor],
    source: ModelConfig,
    target: ModelConfig,
    method: TileMethod,
    rescale: bool,
) -> dict[str, torch.Tensor]:
    """The weights of a `target` model that begins as the `source` model with these; see above.

    A norm that the smaller model does not have (the first attention's, where a later layer begins as the
    first) begins as every norm does: 1, its bias 0.
    """
    assert not list(tiling_problems(source, target))
    tiled = {}
    for name, shape in weight_shapes(target).items():
        origin = source_name(name, source, target)
        if origin not in weights:
            tiled[name] = torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
            continue
        weight = weights[origin]
        for dimension, axis in enumerate(axes(name, target)):
            indices = _axis_indices(axis, source, target, method)
            weight = weight.index_select(dimension, indices)
        if rescale and (_is_linear(name, weight) or name.startswith(_BEFORE_DECODER)):
            weight = weight / torch.bincount(indices)[indices]  # the last axis is that of the inputs
        tiled[name] = weight
    return tiled


def _is_linear(name: str, weight: torch.Tensor) -> bool:
    """Whether a weight sums over its inputs: not a norm or a bias, nor a table that is looked up."""
    return weight.ndim == 2 and not name.endswith(("embeddings.weight", "decoder.weight"))


def _axis_indices(axis: Axis, source: ModelConfig, target: ModelConfig, method: TileMethod) -> torch.Tensor:
    source_size: int = getattr(source, axis.size)
    if axis.by_heads:
        head_dim = source_size // source.num_attention_heads
        heads = tile_indices(source.num_attention_heads, target.num_attention_heads, method)
        indices = (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()
    else:
        indices = tile_indices(source_size, getattr(target, axis.size), method)
    return torch.cat([indices + part * source_size for part in range(axis.parts)])


def tiling_problems(source: ModelConfig, target: ModelConfig) -> Iterator[str]:
    """Yields why the larger model `target` cannot be tiled from `source`: fields, both values, remedy."""
    for field in ("num_hidden_layers", "hidden_size", "intermediate_size"):
        there, here = getattr(source, field), getattr(target, field)
        if here < there:
            yield (
                f"model.{field} is {there:,} there and {here:,} here: tiling makes a model larger, never "
                f"smaller; make it {there:,} or more"
            )
    head_dim = source.hidden_size // source.num_attention_heads
    if target.hidden_size != target.num_attention_heads * head_dim:
        yield (
            f"model.num_attention_heads is {source.num_attention_heads} there ({head_dim} dimensions each) and "
            f"{target.num_attention_heads} here ({target.hidden_size // target.num_attention_heads} each): heads "
            f"are repeated whole; choose hidden_size = {head_dim} x num_attention_heads"
        )
    if target.positions == "learned" and source.max_position_embeddings != target.max_position_embeddings:
        yield (
            f"model.max_position_embeddings is {source.max_position_embeddings:,} there and "
            f"{target.max_position_embeddings:,} here: learned positions cannot be tiled; make it "
            f"{source.max_position_embeddings:,}"
        )
