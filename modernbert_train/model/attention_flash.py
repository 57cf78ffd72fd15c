"""One interface to the kernels of flash-attention 2, 3 and 4, whose packages are imported on first use.

Calls the packages' low-level functions, below their autograd classes, so that autograd and `torch.compile` see only our
operator. Signatures from github.com/Dao-AILab/flash-attention: flash_attn/flash_attn_interface.py (2.7, 2.8),
hopper/flash_attn_interface.py and flash_attn/cute/interface.py.
"""

from typing import Any

import torch


def forward(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output [T, H, D] and the log-sum-exp [H, T] of the scores."""
    query, key, value = qkv.unbind(1)
    options = _options(qkv, cu_seqlens, max_seqlen, window, backend, causal)
    if backend == "flash2":
        from flash_attn.flash_attn_interface import _flash_attn_varlen_forward

        options |= {"dropout_p": 0.0, "causal": False}
        out, lse, *_ = _flash_attn_varlen_forward(query, key, value, **options)
    elif backend == "flash3":
        from flash_attn_interface import _flash_attn_forward

        out, lse, *_ = _flash_attn_forward(query, key, value, **options)
    else:
        assert backend == "flash4", backend
        from flash_attn.cute.interface import _flash_attn_fwd

        out, lse, *_ = _flash_attn_fwd(query, key, value, return_lse=True, **options)
    return out, lse


def backward(
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
    query, key, value = qkv.unbind(1)
    options = _options(qkv, cu_seqlens, max_seqlen, window, backend, causal)
    grad_out = grad_out.contiguous()
    if backend == "flash4":
        from flash_attn.cute.interface import _flash_attn_bwd

        return torch.stack(_flash_attn_bwd(query, key, value, out, grad_out, lse, **options)[:3], dim=1)
    grad = qkv.new_empty(qkv.shape)  # cu_seqlens ends at T, so the kernels write every element
    options |= dict(zip(("dq", "dk", "dv"), grad.unbind(1), strict=True))
    if backend == "flash2":
        from flash_attn.flash_attn_interface import _flash_attn_varlen_backward

        options |= {"dropout_p": 0.0, "causal": False, "softcap": 0.0, "alibi_slopes": None}
        options |= {"deterministic": False}
        _flash_attn_varlen_backward(grad_out, query, key, value, out, lse, **options)
    else:
        assert backend == "flash3", backend
        from flash_attn_interface import _flash_attn_backward

        _flash_attn_backward(grad_out, query, key, value, out, lse, **options)
    return grad


def _options(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    window: int | None,
    backend: str,
    causal: bool,
) -> dict[str, Any]:
    """Return the arguments that all versions share; a right window of 0 makes attention causal in all of them."""
    reach = window
    # Versions 2 and 3 write an unlimited window as -1, version 4 as None.
    if reach is None and backend != "flash4":
        reach = -1
    return {
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": max_seqlen,
        "max_seqlen_k": max_seqlen,
        "window_size_left": reach,
        "window_size_right": 0 if causal else reach,
        "softmax_scale": qkv.shape[-1] ** -0.5,
    }
