"""The parts of the encoder. Attributes carry Transformers' names: with ModernBERT's switches, the state dict is
that of its ModernBERT.

Shapes: T tokens of a packed batch, d hidden size, H heads of D = d / H dimensions, I intermediate size.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import is_gated
from modernbert_train.config.schema import Mlp
from modernbert_train.model.attention import attention
from modernbert_train.model.rope import RotaryTables, apply_rotary


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm (Zhang and Sennrich, 1910.07467), a scale and no bias."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, d] -> [T, d], in the precision of the weight: torch has no fused kernel for a mixture."""
        return super().forward(hidden.to(self.weight.dtype))


def build_norm(config: ModelConfig) -> nn.Module:
    """The norm that stands wherever the encoder has one."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.bias)


class Embeddings(nn.Module):
    """Embedding of the token, where positions are learned also of the position, and norm.

    Rotary positions come in later, in every layer.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, config.hidden_size)
            if config.positions == "learned"
            else None
        )
        self.norm = build_norm(config)
        self.drop = nn.Dropout(config.embedding_dropout)

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Ids and positions [T] -> [T, d]."""
        embedded = self.tok_embeddings(input_ids)
        if self.position_embeddings is not None:
            embedded = embedded + self.position_embeddings(position_ids)
        return self.drop(self.norm(embedded))


class Attention(nn.Module):
    """Multi-head self-attention inside each document; `window` is the reach to either side, None for all."""

    def __init__(self, config: ModelConfig, window: int | None) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.window = window
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.out_drop = nn.Dropout(config.attn_out_dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        rotary: RotaryTables | None,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        backend: str,
        causal: bool,
    ) -> torch.Tensor:
        """[T, d] -> [T, d]; without `rotary` nothing is rotated; the other arguments as for `attention`."""
        qkv = self.Wqkv(hidden).unflatten(-1, (3, self.num_heads, -1))
        if rotary is not None:
            qkv = apply_rotary(qkv, rotary)
        attended = attention(qkv, cu_seqlens, max_seqlen, self.window, backend, causal)
        return self.out_drop(self.Wo(attended.flatten(1)))


def geglu(projected: torch.Tensor) -> torch.Tensor:
    """[T, 2 I] -> [T, I]: gelu(value) * gate (Shazeer, 2002.05202)."""
    value, gate = projected.chunk(2, dim=-1)
    return F.gelu(value) * gate


def swiglu(projected: torch.Tensor) -> torch.Tensor:
    """[T, 2 I] -> [T, I]: silu(value) * gate (Shazeer, 2002.05202)."""
    value, gate = projected.chunk(2, dim=-1)
    return F.silu(value) * gate


def relu2(projected: torch.Tensor) -> torch.Tensor:
    """[T, I] -> [T, I]: relu(value) squared (Primer, 2109.08668)."""
    return F.relu(projected).square()


# Gated ones map [T, 2 I] -> [T, I], the others [T, I] -> [T, I].
ACTIVATIONS: dict[Mlp, Callable[[torch.Tensor], torch.Tensor]] = {
    "geglu": geglu,
    "swiglu": swiglu,
    "gelu": F.gelu,
    "relu2": relu2,
}


class FeedForward(nn.Module):
    """The MLP of a layer: Wi widens, an activation with or without a gate follows, Wo maps back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        width = 2 * config.intermediate_size if is_gated(config) else config.intermediate_size
        self.Wi = nn.Linear(config.hidden_size, width, bias=config.bias)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.out_drop = nn.Dropout(config.mlp_out_dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, d] -> [T, d]."""
        return self.out_drop(self.Wo(self.activation(self.Wi(hidden))))


class EncoderLayer(nn.Module):
    """Attention and MLP, put together by one of the blocks below.

    In a pre-norm encoder the embedding has normed the first layer's input already: `attn_norm` does nothing.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.is_global = layer % config.global_attn_every_n_layers == 0
        self.block = parallel_block if config.parallel_block else _BLOCKS[config.norm_placement]
        is_normed_already = layer == 0 and config.norm_placement == "pre"
        self.attn_norm = nn.Identity() if is_normed_already else build_norm(config)
        self.attn = Attention(config, None if self.is_global else config.local_attention // 2)
        if not config.parallel_block:
            self.mlp_norm = build_norm(config)
        self.mlp = FeedForward(config)

    def forward(
        self,
        hidden: torch.Tensor,
        rotary: RotaryTables | None,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        backend: str,
        causal: bool,
    ) -> torch.Tensor:
        """[T, d] -> [T, d]; the other arguments as for `Attention`."""
        return self.block(self, hidden, rotary, cu_seqlens, max_seqlen, backend, causal)


def pre_norm_block(layer: EncoderLayer, hidden: torch.Tensor, *packing: Any) -> torch.Tensor:
    """Each half normed before and added after (Xiong et al., 2002.04745); `packing` goes to the attention."""
    hidden = hidden + layer.attn(layer.attn_norm(hidden), *packing)
    return hidden + layer.mlp(layer.mlp_norm(hidden))


def post_norm_block(layer: EncoderLayer, hidden: torch.Tensor, *packing: Any) -> torch.Tensor:
    """Each half added first, and the sum normed (Vaswani et al., 1706.03762; BERT, 1810.04805)."""
    hidden = layer.attn_norm(hidden + layer.attn(hidden, *packing))
    return layer.mlp_norm(hidden + layer.mlp(hidden))


def parallel_block(layer: EncoderLayer, hidden: torch.Tensor, *packing: Any) -> torch.Tensor:
    """Both halves read the same normed input, and both are added (PaLM, 2204.02311, section 2)."""
    normed = layer.attn_norm(hidden)
    return hidden + layer.attn(normed, *packing) + layer.mlp(normed)


_BLOCKS = {"pre": pre_norm_block, "post": post_norm_block}


class PredictionHead(nn.Module):
    """What stands between the encoder and the decoder: dense, GELU, norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.norm = build_norm(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, d] -> [M, d]."""
        return self.norm(F.gelu(self.dense(hidden)))
