"""The encoder with every switch, the simple way: document by document, with explicit formulas.

From the package, only the names of weights and switches are used. There is no dropout.
"""

import torch
from torch import Tensor

from modernbert_train.config import ModelConfig
from tests.reference.attention import attention


def logits(
    config: ModelConfig, weights: dict[str, Tensor], documents: list[Tensor], causal: bool = False
) -> Tensor:
    """[tokens of all documents, vocabulary], in the dtype of the weights; differentiable."""
    return torch.cat([_document(config, weights, ids, causal) for ids in documents])


def _document(config: ModelConfig, weights: dict[str, Tensor], ids: Tensor, causal: bool) -> Tensor:
    def norm(name: str, x: Tensor) -> Tensor:
        if config.norm == "rmsnorm":
            return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weights[f"{name}.weight"]
        assert config.norm == "layernorm", config.norm
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt()
        return scaled * weights[f"{name}.weight"] + (weights[f"{name}.bias"] if config.bias else 0)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + (weights[f"{name}.bias"] if config.bias else 0)

    def attend(layer: int, x: Tensor) -> Tensor:
        name, is_global = f"model.layers.{layer}.attn", layer % config.global_attn_every_n_layers == 0
        qkv = linear(f"{name}.Wqkv", x).reshape(len(x), 3, config.num_attention_heads, -1)
        if config.positions == "rope":
            theta = config.global_rope_theta if is_global else config.local_rope_theta
            qkv = torch.stack((_rotate(qkv[:, 0], theta), _rotate(qkv[:, 1], theta), qkv[:, 2]), dim=1)
        whole = torch.tensor([0, len(x)])
        mixed = attention(qkv, whole, None if is_global else config.local_attention // 2, causal)
        return linear(f"{name}.Wo", mixed.reshape(len(x), -1))

    def feed_forward(layer: int, x: Tensor) -> Tensor:
        name = f"model.layers.{layer}.mlp"
        wide = linear(f"{name}.Wi", x)
        if config.mlp in UNGATED:
            return linear(f"{name}.Wo", UNGATED[config.mlp](wide))
        value, gate = wide[:, : config.intermediate_size], wide[:, config.intermediate_size :]
        return linear(f"{name}.Wo", GATED[config.mlp](value) * gate)

    x = weights["model.embeddings.tok_embeddings.weight"][ids]
    if config.positions == "learned":
        x = x + weights["model.embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("model.embeddings.norm", x)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        if config.norm_placement == "post":
            x = norm(f"{name}.attn_norm", x + attend(layer, x))
            x = norm(f"{name}.mlp_norm", x + feed_forward(layer, x))
            continue
        normed = x if layer == 0 else norm(f"{name}.attn_norm", x)
        if config.parallel_block:
            x = x + attend(layer, normed) + feed_forward(layer, normed)
        else:
            x = x + attend(layer, normed)
            x = x + feed_forward(layer, norm(f"{name}.mlp_norm", x))
    if config.norm_placement == "pre":
        x = norm("model.final_norm", x)
    x = norm("head.norm", _gelu(linear("head.dense", x)))
    return x @ weights["model.embeddings.tok_embeddings.weight"].T + weights["decoder.bias"]


def _gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


GATED = {"geglu": _gelu, "swiglu": lambda x: x / (1 + (-x).exp())}
UNGATED = {"gelu": _gelu, "relu2": lambda x: torch.where(x > 0, x * x, 0)}


def _rotate(x: Tensor, theta: float) -> Tensor:
    """[L, H, D]: dimensions i and i + D/2 at position p rotate by p * theta ** (-2i / D)."""
    length, _, dim = x.shape
    turned = x.clone()
    for i in range(dim // 2):
        angle = torch.arange(length, dtype=x.dtype)[:, None] * theta ** (-2 * i / dim)
        first, second = x[:, :, i], x[:, :, i + dim // 2]
        turned[:, :, i] = first * angle.cos() - second * angle.sin()
        turned[:, :, i + dim // 2] = second * angle.cos() + first * angle.sin()
    return turned
