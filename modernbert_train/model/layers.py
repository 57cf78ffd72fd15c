"""The parts of the encoder. Attributes carry Transformers' names: the state dict is that of its ModernBERT.

Shapes: T tokens of a packed batch, d hidden size, H heads of D = d / H dimensions, I intermediate size.
"""

import torch
import torch.nn.functional as F
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.model.attention import attention
from modernbert_train.model.rope import RotaryTables, apply_rotary


class Embeddings(nn.Module):
    """Token embedding and norm. Positions come in by rotation, in every layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = layer_norm(config)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids [T] -> [T, d]."""
        return self.norm(self.tok_embeddings(input_ids))


class Attention(nn.Module):
    """Multi-head self-attention inside each document; `window` is the reach to either side, None for all."""

    def __init__(self, config: ModelConfig, window: int | None) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.window = window
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.out_drop = nn.Dropout(config.attn_out_dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        rotary: RotaryTables,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        backend: str,
    ) -> torch.Tensor:
        """[T, d] -> [T, d]; the other arguments as for `attention`."""
        qkv = self.Wqkv(hidden).unflatten(-1, (3, self.num_heads, -1))
        attended = attention(apply_rotary(qkv, rotary), cu_seqlens, max_seqlen, self.window, backend)
        return self.out_drop(self.Wo(attended.flatten(1)))


class GeGLU(nn.Module):
    """Gated feed-forward (Shazeer, 2002.05202): Wi yields input and gate, Wo maps gelu(input) * gate back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, d] -> [T, d]."""
        value, gate = self.Wi(hidden).chunk(2, dim=-1)
        return self.Wo(F.gelu(value) * gate)


class EncoderLayer(nn.Module):
    """Attention and GeGLU, each normed before and added after. The first layer's input is normed already."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.is_global = layer % config.global_attn_every_n_layers == 0
        self.attn_norm = nn.Identity() if layer == 0 else layer_norm(config)
        self.attn = Attention(config, None if self.is_global else config.local_attention // 2)
        self.mlp_norm = layer_norm(config)
        self.mlp = GeGLU(config)

    def forward(
        self,
        hidden: torch.Tensor,
        rotary: RotaryTables,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        backend: str,
    ) -> torch.Tensor:
        """[T, d] -> [T, d]; the other arguments as for `attention`."""
        hidden = hidden + self.attn(self.attn_norm(hidden), rotary, cu_seqlens, max_seqlen, backend)
        return hidden + self.mlp(self.mlp_norm(hidden))


class PredictionHead(nn.Module):
    """What stands between the encoder and the decoder: dense, GELU, norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = layer_norm(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, d] -> [M, d]."""
        return self.norm(F.gelu(self.dense(hidden)))


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """ModernBERT's norm: a scale, no bias."""
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)
