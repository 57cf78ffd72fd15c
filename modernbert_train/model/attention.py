"""Attention of packed documents to themselves: one signature, several backends.

    qkv [T, 3, H, D]     documents end to end: tokens 0..3 of the first, 0..1 of the second, ...
    cu_seqlens [0, 4, 6] where they start, and the number of tokens last; int32

No token sees another document, and no padding is computed. Every backend but torch's `varlen_attn`, which is
one itself, stands behind one custom operator, so that `torch.compile` sees a single node and never looks
inside.
"""

import torch
from torch.nn.attention import varlen

from modernbert_train.model import attention_flash, attention_torch


def attention(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool = False,
) -> torch.Tensor:
    """Softmax attention, scores scaled by D ** -0.5, each document to itself: [T, 3, H, D] -> [T, H, D].

    `cu_seqlens` [N + 1] int32 runs from 0 to T without empty documents, none longer than `max_seqlen`. A
    token sees those at most `window` tokens to either side (inclusive: a window of 64 is 129 tokens wide), or
    with None the whole document; if `causal`, none of those after itself. `backend` is one of
    `resolve_backend`'s answers. Raises ValueError for a dtype or device that the backend lacks.
    """
    assert qkv.ndim == 4, f"qkv must be [T, 3, H, D], has {qkv.ndim} dimensions"
    assert qkv.shape[1] == 3, "qkv must be [T, 3, H, D]"
    assert cu_seqlens.ndim == 1, "cu_seqlens must be [N + 1]"
    assert cu_seqlens.dtype == torch.int32, f"cu_seqlens must be int32, is {cu_seqlens.dtype}"
    assert window is None or window > 0, f"window must be positive or None, got {window}"
    if backend != "torch":
        _require_flash_input(qkv, backend)
    if backend == "varlen":
        query, key, value = qkv.unbind(1)
        reach = -1 if window is None else window
        size = reach, 0 if causal else reach
        return varlen.varlen_attn(
            query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, window_size=size
        )
    return packed_attention(qkv, cu_seqlens, max_seqlen, window, backend, causal)[0]


@torch.library.custom_op("modernbert_train::packed_attention", mutates_args=())
def packed_attention(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `attention` calls: the output, and log-sum-exp [H, T] if the backward pass wants it."""
    if backend == "torch":
        _check_segments(cu_seqlens, len(qkv), max_seqlen)
        return attention_torch.forward(qkv, cu_seqlens, window, causal)
    return attention_flash.forward(qkv, cu_seqlens, max_seqlen, window, backend, causal)


@packed_attention.register_fake
def _(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    num_tokens, _, num_heads, head_dim = qkv.shape
    has_lse = backend != "torch" or attention_torch.saves_lse(qkv, window)
    lse_shape = (num_heads, num_tokens) if has_lse else (0,)
    out = qkv.new_empty(num_tokens, num_heads, head_dim)
    return out, qkv.new_empty(lse_shape, dtype=torch.promote_types(qkv.dtype, torch.float32))


@torch.library.custom_op("modernbert_train::packed_attention_backward", mutates_args=())
def packed_attention_backward(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool,
) -> torch.Tensor:
    """Gradient to qkv, [T, 3, H, D]."""
    if backend == "torch":
        return attention_torch.backward(grad_out, qkv, out, lse, cu_seqlens, window, causal)
    return attention_flash.backward(grad_out, qkv, out, lse, cu_seqlens, max_seqlen, window, backend, causal)


@packed_attention_backward.register_fake
def _(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool,
) -> torch.Tensor:
    return qkv.new_empty(qkv.shape)


def _setup_context(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[torch.Tensor, torch.Tensor, int, int | None, str, bool],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    qkv, cu_seqlens, *options = inputs
    out, lse = output
    # Without log-sum-exp the backward pass starts from the input alone.
    ctx.save_for_backward(qkv, out if lse.ndim == 2 else lse, lse, cu_seqlens)
    ctx.options = options


def _backward(
    ctx: torch.autograd.function.FunctionCtx, grad_out: torch.Tensor, grad_lse: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    qkv, out, lse, cu_seqlens = ctx.saved_tensors
    grad = packed_attention_backward(grad_out, qkv, out, lse, cu_seqlens, *ctx.options)
    return grad, None, None, None, None, None


packed_attention.register_autograd(_backward, setup_context=_setup_context)


def _require_flash_input(qkv: torch.Tensor, backend: str) -> None:
    if qkv.device.type != "cuda":
        raise ValueError(
            f"training.attention_backend is {backend!r}, which runs on CUDA; the tensors are on"
            f" {qkv.device}: use auto or torch"
        )
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"training.attention_backend is {backend!r}, which computes in bfloat16 or float16; the tensors"
            f" are {qkv.dtype}: set training.precision to bf16, or attention_backend to torch (slow on a GPU)"
        )


def _check_segments(cu_seqlens: torch.Tensor, num_tokens: int, max_seqlen: int) -> None:
    lengths = cu_seqlens.diff()
    assert int(cu_seqlens[0]) == 0, "cu_seqlens must start at 0"
    assert int(cu_seqlens[-1]) == num_tokens, f"cu_seqlens must end at the number of tokens, {num_tokens}"
    assert int(lengths.min()) > 0, "a document is empty"
    assert int(lengths.max()) <= max_seqlen, f"a document has {int(lengths.max())} > {max_seqlen} tokens"
