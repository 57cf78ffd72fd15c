"""Tiling, element by element, as in ModernBERT's research code, except that heads are kept whole."""

import torch


def tile_axis(weight, dimension, size, method):
    """Extend one dimension to `size`: place the weight, then fill outwards from its edges."""
    rows = list(weight.unbind(dimension))
    count = len(rows)
    result = [None] * size
    offset = (size - count) // 2 if method == "tile_middle" else 0
    for at in range(count):
        result[offset + at] = rows[at]
    for at in range(offset):  # to the left, from the last row backwards
        result[offset - 1 - at] = rows[count - 1 - at % count]
    for at in range(offset + count, size):
        result[at] = rows[(at - offset) % count]
    return torch.stack(result, dimension)


def tile_heads(weight, dimension, heads, head_dim, method):
    """Do the same as `tile_axis`, one head at a time."""
    whole = weight.unflatten(dimension, (-1, head_dim))
    return tile_axis(whole, dimension, heads, method).flatten(dimension, dimension + 1)


def weigh_inputs(tiled, sources):
    """Divide each input by the number of copies of its source; `sources` has the source of each input."""
    for at in range(tiled.shape[-1]):
        tiled[..., at] = tiled[..., at] / sources.count(sources[at])


def rescale(tiled, source, target, method):
    """Rescale a tiled model in place: all matrices except embeddings, and the norm before the decoder."""
    head_dim = target.hidden_size // target.num_attention_heads

    def repeated(size, new_size):
        return tile_axis(torch.arange(size), 0, new_size, method).tolist()

    hidden = repeated(source.hidden_size, target.hidden_size)
    inner = repeated(source.intermediate_size, target.intermediate_size)
    heads = tile_heads(
        torch.arange(source.hidden_size), 0, target.num_attention_heads, head_dim, method
    ).tolist()
    for name, weight in tiled.items():
        if name.endswith("attn.Wo.weight"):
            weigh_inputs(weight, heads)
        elif name.endswith("mlp.Wo.weight"):
            weigh_inputs(weight, inner)
        elif name.endswith(("Wqkv.weight", "Wi.weight", "dense.weight")) or name.startswith("head.norm"):
            weigh_inputs(weight, hidden)


def tile_model(weights, source, target, method):
    """Return all weights of the larger model."""
    d, inner, heads = target.hidden_size, target.intermediate_size, target.num_attention_heads
    head_dim = d // heads

    def hidden(weight, dimension):
        return tile_axis(weight, dimension, d, method)

    def fused(weight, parts, one):
        return torch.cat([one(part) for part in weight.chunk(parts, 0)], 0)

    tiled = {}
    for name in ("model.embeddings.norm", "model.final_norm", "head.norm"):
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in weights:
                tiled[f"{name}.{kind}"] = hidden(weights[f"{name}.{kind}"], 0)
    tiled["decoder.bias"] = weights["decoder.bias"]
    tables = ["model.embeddings.tok_embeddings.weight", "decoder.weight"]
    if "model.embeddings.position_embeddings.weight" in weights:
        tables.append("model.embeddings.position_embeddings.weight")
    for name in tables:
        tiled[name] = hidden(weights[name], 1)
    tiled["head.dense.weight"] = hidden(hidden(weights["head.dense.weight"], 0), 1)
    if "head.dense.bias" in weights:
        tiled["head.dense.bias"] = hidden(weights["head.dense.bias"], 0)

    for layer in range(target.num_hidden_layers):
        origin = round(layer * source.num_hidden_layers / target.num_hidden_layers)
        old = f"model.layers.{min(origin, source.num_hidden_layers - 1)}."
        new = f"model.layers.{layer}."
        for norm in ("attn_norm", "mlp_norm"):
            for kind, fresh in (("weight", torch.ones(d)), ("bias", torch.zeros(d))):
                if f"{old}{norm}.{kind}" in weights:
                    tiled[f"{new}{norm}.{kind}"] = hidden(weights[f"{old}{norm}.{kind}"], 0)
                elif f"{old}mlp_norm.{kind}" in weights and layer > 0:
                    tiled[f"{new}{norm}.{kind}"] = fresh
        tiled[f"{new}attn.Wqkv.weight"] = fused(
            hidden(weights[f"{old}attn.Wqkv.weight"], 1),
            3,
            lambda part: tile_heads(part, 0, heads, head_dim, method),
        )
        tiled[f"{new}attn.Wo.weight"] = tile_heads(
            hidden(weights[f"{old}attn.Wo.weight"], 0), 1, heads, head_dim, method
        )
        parts = len(weights[f"{old}mlp.Wi.weight"]) // source.intermediate_size
        tiled[f"{new}mlp.Wi.weight"] = fused(
            hidden(weights[f"{old}mlp.Wi.weight"], 1), parts, lambda part: tile_axis(part, 0, inner, method)
        )
        tiled[f"{new}mlp.Wo.weight"] = tile_axis(hidden(weights[f"{old}mlp.Wo.weight"], 0), 1, inner, method)
        if f"{old}attn.Wqkv.bias" in weights:
            tiled[f"{new}attn.Wqkv.bias"] = fused(
                weights[f"{old}attn.Wqkv.bias"], 3, lambda part: tile_heads(part, 0, heads, head_dim, method)
            )
            tiled[f"{new}attn.Wo.bias"] = hidden(weights[f"{old}attn.Wo.bias"], 0)
            tiled[f"{new}mlp.Wi.bias"] = fused(
                weights[f"{old}mlp.Wi.bias"], parts, lambda part: tile_axis(part, 0, inner, method)
            )
            tiled[f"{new}mlp.Wo.bias"] = hidden(weights[f"{old}mlp.Wo.bias"], 0)
    return tiled
