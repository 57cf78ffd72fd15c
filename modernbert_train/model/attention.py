"""Attention over packed documents: one signature, several backends.

    qkv [T, 3, H, D]       concatenated documents: here 4 tokens of the first, then 2 of the second
    cu_seqlens [0, 4, 6]   where each document starts, and T; int32

Tokens attend within their own document, and nothing is computed for padding. torch's `varlen_attn` is a custom operator
already; all other backends are wrapped in one, so that `torch.compile` sees a single node and does not trace into it.
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
    """Compute softmax attention within each document, with scores scaled by D ** -0.5.

    Args:
        qkv: [T, 3, H, D], queries, keys and values.
        cu_seqlens: [N + 1] int32, from 0 to T; no document is empty.
        max_seqlen: upper bound of the documents' lengths in tokens.
        window: how many tokens a token sees to either side (64: 129 tokens in all); None: the whole document.
        backend: a result of `resolve_backend`.
        causal: whether a token sees only itself and earlier tokens.

    Returns:
        [T, H, D], in the dtype of `qkv`.

    Raises:
        ValueError: if the backend does not support the device or the dtype of `qkv`.
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
    """Return the output, and the log-sum-exp [H, T] if the backward pass needs it; called by `attention`."""
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
    """Return the gradient of the loss with respect to qkv, [T, 3, H, D]."""
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
    # Without the log-sum-exp, the backward pass recomputes everything from the input: there is no output to save.
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
            f"training.attention_backend is {backend!r}, which needs CUDA, but the tensors are on"
            f" {qkv.device}; use auto or torch"
        )
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"training.attention_backend is {backend!r}, which computes in bfloat16 or float16, but the tensors"
            f" are {qkv.dtype}; set training.precision to bf16, or attention_backend to torch (slow on a GPU)"
        )


def _check_segments(cu_seqlens: torch.Tensor, num_tokens: int, max_seqlen: int) -> None:
    lengths = cu_seqlens.diff()
    assert int(cu_seqlens[0]) == 0, "cu_seqlens must start at 0"
    assert int(cu_seqlens[-1]) == num_tokens, f"cu_seqlens must end at the number of tokens, {num_tokens}"
    assert int(lengths.min()) > 0, "a document is empty"
    assert int(lengths.max()) <= max_seqlen, f"a document has {int(lengths.max())} > {max_seqlen} tokens"
