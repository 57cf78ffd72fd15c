"""Rotary position embedding (Su et al., 2104.09864), with separate thetas for global and local layers.

As in Transformers, dimensions i and i + D/2 of a head form a pair, rotated by position * theta ** (-2i / D).
"""

import torch
from torch import nn

# Cosine and sine, each [T, 1, 1, D/2].
RotaryTables = tuple[torch.Tensor, torch.Tensor]


def inverse_frequencies(head_dim: int, theta: float) -> torch.Tensor:
    """Return the angle per position, theta ** (-2i / D) for i = 0 .. D/2 - 1: float32 [D/2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return 1.0 / (theta**exponents)


class RotaryEmbedding(nn.Module):
    """Tables of angles for global and local layers; the frequencies are buffers, so theta may change once compiled."""

    full_attention_inv_freq: torch.Tensor
    sliding_attention_inv_freq: torch.Tensor

    def __init__(self, head_dim: int, global_theta: float, local_theta: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        for kind, theta in (("full_attention", global_theta), ("sliding_attention", local_theta)):
            self.register_buffer(f"{kind}_inv_freq", inverse_frequencies(head_dim, theta), persistent=False)

    def set_theta(self, global_theta: float, local_theta: float) -> None:
        """Set both thetas in place."""
        self.full_attention_inv_freq.copy_(inverse_frequencies(self.head_dim, global_theta))
        self.sliding_attention_inv_freq.copy_(inverse_frequencies(self.head_dim, local_theta))

    def forward(self, position_ids: torch.Tensor) -> tuple[RotaryTables, RotaryTables]:
        """Return cosine and sine for positions [T], of global layers and of local layers."""
        frequencies = self.full_attention_inv_freq, self.sliding_attention_inv_freq
        global_tables, local_tables = (_tables(position_ids, inv_freq) for inv_freq in frequencies)
        return global_tables, local_tables


def _tables(position_ids: torch.Tensor, inv_freq: torch.Tensor) -> RotaryTables:
    assert inv_freq.dtype in (torch.float32, torch.float64), "bfloat16 cannot represent positions beyond 256"
    angles = (position_ids.to(inv_freq.dtype)[:, None] * inv_freq)[:, None, None]
    return angles.cos(), angles.sin()


def apply_rotary(qkv: torch.Tensor, tables: RotaryTables) -> torch.Tensor:
    """Rotate the queries and keys of qkv [T, 3, H, D] in the precision of the tables; values are unchanged."""
    return _Rotation.apply(qkv, *tables)


class _Rotation(torch.autograd.Function):
    """Rotation with a backward pass that rotates back, which is far faster than autograd through the slices."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(qkv, cos, sin)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, -sin), None, None


def _rotate(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = qkv[:, :2].to(cos.dtype).chunk(2, dim=-1)
    rotated_first = torch.addcmul(first * cos, second, sin, value=-1)
    rotated_second = torch.addcmul(second * cos, first, sin)
    rotated = torch.cat((rotated_first, rotated_second), dim=-1)
    return torch.cat((rotated.to(qkv.dtype), qkv[:, 2:]), dim=1)
