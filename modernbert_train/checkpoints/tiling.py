"""Tiling: initialize a larger model from a smaller, trained one.

Every axis of a weight is extended by repetition, and every layer of the larger model starts as one of the smaller
model's. An axis of 3 becomes one of 8 as

    tile_middle    b c | a b c | a b c     the original in the middle, wrapping around on both sides
    tile_edge      a b c | a b c | a b     from the start

All weights that read or write the residual stream, or the inner dimensions of an MLP, repeat the same dimensions, so
that they still match. Fused matrices (query, key and value in Wqkv, value and gate in Wi) are tiled part by part.

A sum over repeated dimensions counts each as often as it is repeated: attention becomes sharper, logits larger, and the
larger model may start worse than a random one. With `rescale`, each input that is repeated n times is weighted by 1/n,
so that sums keep their size. The decoder is not rescaled, since its matrix is the embedding; the norm before it is. If
the width is an integer multiple and the depth is equal, the larger model then computes the same function; otherwise
approximately (a norm's mean and variance count the repeated dimensions).

Sources: HyperCloning (2409.12903) for rescaling. All else, without rescaling: `tile_weights_from_middle`,
`tile_weights_from_edge` (src/bert_layers/initialization.py) and `init_model_from_pretrained` (src/bert_layers/model.py)
of github.com/AnswerDotAI/ModernBERT, which initialized ModernBERT-large (2412.13663, section 2.2.2 and appendix), with
the layers of Gopher (2112.11446). One difference: that code centres the dimensions of attention one by one, this one
head by head. Both agree if the numbers of heads differ by an even number, as from base to large; otherwise its tiles
start in the middle of a head, which splits dimensions that are rotated in pairs.
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
    """The meaning of one axis of a weight."""

    # The field of ModelConfig that is its size.
    size: str
    # Whether it is repeated head by head.
    by_heads: bool = False
    # Number of matrices fused along it.
    parts: int = 1


_HIDDEN, _INNER = Axis("hidden_size"), Axis("intermediate_size")
_HEADS = Axis("hidden_size", by_heads=True)
_VOCABULARY = Axis("vocab_size")
# End of a weight's name -> its axes. All others are norms or biases with the size of the residual stream.
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
    """Return the axes of the weight `name`."""
    found = next((axes for end, axes in _AXES.items() if name.endswith(end)), (_HIDDEN,))
    if ".mlp.Wi." in name and is_gated(model):
        return (replace(found[0], parts=2), *found[1:])
    return found


def tile_indices(source_size: int, target_size: int, method: TileMethod) -> torch.Tensor:
    """Return the source position of each target position, [target_size]."""
    offset = (target_size - source_size) // 2 if method == "tile_middle" else 0
    return (torch.arange(target_size) - offset) % source_size


def layer_sources(source_layers: int, target_layers: int) -> list[int]:
    """Return the source layer of each target layer: round(i * source / target)."""
    # `round` takes halves to the even neighbour, as in the original. From 2 to 5 layers it would exceed the last one.
    return [
        min(round(layer * source_layers / target_layers), source_layers - 1) for layer in range(target_layers)
    ]


def source_name(name: str, source: ModelConfig, target: ModelConfig) -> str:
    """Return the source weight that the target weight `name` starts as."""
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
    """Return the weights of a `target` model, tiled from those of a `source` model.

    A norm that the source lacks (that of the first attention, if a later layer starts as the first) starts as 1, with
    bias 0.

    Args:
        weights: The weights of the source.
        source: The smaller model.
        target: The larger model.
        method: "tile_middle" or "tile_edge".
        rescale: Whether to weight repeated inputs so that sums keep their size.
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
            # `indices` are those of the last axis, the inputs.
            weight = weight / torch.bincount(indices)[indices]
        tiled[name] = weight
    return tiled


def _is_linear(name: str, weight: torch.Tensor) -> bool:
    """Check whether a weight sums over its inputs, unlike norms, biases and embedding tables."""
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
    """Yield the reasons why `target` cannot be tiled from `source`, with both values and the remedy."""
    for field in ("num_hidden_layers", "hidden_size", "intermediate_size"):
        source_size, target_size = getattr(source, field), getattr(target, field)
        if target_size < source_size:
            yield (
                f"model.{field}: source {source_size:,}, recipe {target_size:,}: tiling cannot make a model smaller; "
                f"make it {source_size:,} or more"
            )
    head_dim = source.hidden_size // source.num_attention_heads
    if target.hidden_size != target.num_attention_heads * head_dim:
        yield (
            f"model.num_attention_heads: source {source.num_attention_heads} ({head_dim} dimensions each), recipe "
            f"{target.num_attention_heads} ({target.hidden_size // target.num_attention_heads} each): only whole heads "
            f"are repeated; choose hidden_size = {head_dim} x num_attention_heads"
        )
    if target.positions == "learned" and source.max_position_embeddings != target.max_position_embeddings:
        yield (
            f"model.max_position_embeddings: source {source.max_position_embeddings:,}, recipe "
            f"{target.max_position_embeddings:,}: learned positions cannot be tiled; make it "
            f"{source.max_position_embeddings:,}"
        )
