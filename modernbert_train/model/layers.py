"""The parts of the encoder: embeddings, attention, MLP, layers and prediction head.

Attributes carry the names of Transformers' ModernBERT, so that with ModernBERT's switches the state dicts are the same.

Shapes: T tokens of a packed batch, d hidden size, H heads of D = d / H dimensions, I intermediate size.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import is_gated
from modernbert_train.config.schema import Mlp
from modernbert_train.model.attention import attention
from modernbert_train.model.rope import RotaryTables, apply_rotary


class AttentionInputs(NamedTuple):
    """What attention needs besides the hidden states; all layers of a kind, global or local, share it."""

    rotary: RotaryTables | None  # None: queries and keys are not rotated
    cu_seqlens: torch.Tensor
    max_seqlen: int
    backend: str
    causal: bool


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm (Zhang and Sennrich, 1910.07467): a scale, no bias."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [T, d] to [T, d] in the precision of the weight: torch has no fused kernel for mixed precision."""
        return super().forward(hidden.to(self.weight.dtype))


def build_norm(config: ModelConfig) -> nn.Module:
    """Build one of the encoder's norms, which are all of the same kind."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.bias)


class Embeddings(nn.Module):
    """Token embedding, plus a position embedding if positions are learned; then norm and dropout."""

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
        """Map ids [T] and positions [T] to [T, d]."""
        embedded = self.tok_embeddings(input_ids)
        if self.position_embeddings is not None:
            embedded = embedded + self.position_embeddings(position_ids)
        return self.drop(self.norm(embedded))


class Attention(nn.Module):
    """Multi-head self-attention within each document.

    A token sees `window` tokens to either side, or the whole document if `window` is None.
    """

    def __init__(self, config: ModelConfig, window: int | None) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.window = window
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.out_drop = nn.Dropout(config.attn_out_dropout)

    def forward(self, hidden: torch.Tensor, inputs: AttentionInputs) -> torch.Tensor:
        """Map [T, d] to [T, d]."""
        qkv = self.Wqkv(hidden).unflatten(-1, (3, self.num_heads, -1))
        if inputs.rotary is not None:
            qkv = apply_rotary(qkv, inputs.rotary)
        attended = attention(
            qkv, inputs.cu_seqlens, inputs.max_seqlen, self.window, inputs.backend, inputs.causal
        )
        return self.out_drop(self.Wo(attended.flatten(1)))


def geglu(projected: torch.Tensor) -> torch.Tensor:
    """Compute gelu(value) * gate (Shazeer, 2002.05202): [T, 2 I] -> [T, I]."""
    value, gate = projected.chunk(2, dim=-1)
    return F.gelu(value) * gate


def swiglu(projected: torch.Tensor) -> torch.Tensor:
    """Compute silu(value) * gate (Shazeer, 2002.05202): [T, 2 I] -> [T, I]."""
    value, gate = projected.chunk(2, dim=-1)
    return F.silu(value) * gate


def relu2(projected: torch.Tensor) -> torch.Tensor:
    """Compute relu(value) ** 2 (Primer, 2109.08668): [T, I] -> [T, I]."""
    return F.relu(projected).square()


ACTIVATIONS: dict[Mlp, Callable[[torch.Tensor], torch.Tensor]] = {
    "geglu": geglu,
    "swiglu": swiglu,
    "gelu": F.gelu,
    "relu2": relu2,
}


class FeedForward(nn.Module):
    """The MLP of a layer: Wi widens, the activation applies its gate if it has one, Wo projects back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        width = 2 * config.intermediate_size if is_gated(config) else config.intermediate_size
        self.Wi = nn.Linear(config.hidden_size, width, bias=config.bias)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.out_drop = nn.Dropout(config.mlp_out_dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [T, d] to [T, d]."""
        return self.out_drop(self.Wo(self.activation(self.Wi(hidden))))


class EncoderLayer(nn.Module):
    """Attention and MLP, combined by one of the blocks below."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.is_global = layer % config.global_attn_every_n_layers == 0
        self.block = parallel_block if config.parallel_block else _BLOCKS[config.norm_placement]
        # In a pre-norm encoder, the embeddings' norm has already normed the first layer's input.
        is_normed_already = layer == 0 and config.norm_placement == "pre"
        self.attn_norm = nn.Identity() if is_normed_already else build_norm(config)
        self.attn = Attention(config, None if self.is_global else config.local_attention // 2)
        if not config.parallel_block:
            self.mlp_norm = build_norm(config)
        self.mlp = FeedForward(config)

    def forward(self, hidden: torch.Tensor, inputs: AttentionInputs) -> torch.Tensor:
        """Map [T, d] to [T, d]."""
        return self.block(self, hidden, inputs)


def pre_norm_block(layer: EncoderLayer, hidden: torch.Tensor, inputs: AttentionInputs) -> torch.Tensor:
    """Norm the input of attention and of MLP, then add their outputs (Xiong et al., 2002.04745)."""
    hidden = hidden + layer.attn(layer.attn_norm(hidden), inputs)
    return hidden + layer.mlp(layer.mlp_norm(hidden))


def post_norm_block(layer: EncoderLayer, hidden: torch.Tensor, inputs: AttentionInputs) -> torch.Tensor:
    """Add the output of attention and of MLP, then norm the sum (Vaswani et al., 1706.03762; BERT, 1810.04805)."""
    hidden = layer.attn_norm(hidden + layer.attn(hidden, inputs))
    return layer.mlp_norm(hidden + layer.mlp(hidden))


def parallel_block(layer: EncoderLayer, hidden: torch.Tensor, inputs: AttentionInputs) -> torch.Tensor:
    """Feed the same normed input to attention and MLP, then add both outputs (PaLM, 2204.02311, section 2)."""
    normed = layer.attn_norm(hidden)
    return hidden + layer.attn(normed, inputs) + layer.mlp(normed)


_BLOCKS = {"pre": pre_norm_block, "post": post_norm_block}


class PredictionHead(nn.Module):
    """Dense layer, GELU and norm between encoder and decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.norm = build_norm(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [M, d] to [M, d]."""
        return self.norm(F.gelu(self.dense(hidden)))
