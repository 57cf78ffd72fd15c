"""Attention of packed documents to themselves: one signature, several backends.

    qkv [T, 3, H, D]     documents end to end: tokens 0..3 of the first, 0..1 of the second, ...
    cu_seqlens [0, 4, 6] where they start, and the number of tokens last; int32

No token sees another document, and no padding is computed. Every backend but torch's `varlen_attn`, which is
one itself, stands behind one custom operator, so that `torch.compile` sees a single node and never looks
inside.
"""

import importlib.util
import inspect

import torch
from torch.nn.attention import varlen

from modernbert_train.model import attention_cpu, attention_flash

BACKENDS = ("auto", "varlen", "flash2", "flash3", "flash4", "cpu")

# Module with the kernels, how to get it, compute capabilities it runs on: the lowest, the first too high.
_FLASH_PACKAGES = {
    "flash2": ("flash_attn_2_cuda", "pip install 'flash-attn>=2.7'", (8, 0), None),
    "flash3": ("flash_attn_interface", "build it from flash-attention's folder hopper/", (9, 0), (10, 0)),
    "flash4": ("flash_attn.cute", "pip install flash-attn-4", (9, 0), None),
}


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
    if backend != "cpu":
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
    if backend == "cpu":
        _check_segments(cu_seqlens, len(qkv), max_seqlen)
        return attention_cpu.forward(qkv, cu_seqlens, window, causal)
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
    has_lse = backend != "cpu" or attention_cpu.saves_lse(qkv, window)
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
    if backend == "cpu":
        return attention_cpu.backward(grad_out, qkv, out, lse, cu_seqlens, window, causal)
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


def resolve_backend(requested: str, device: torch.device | str) -> tuple[str, str]:
    """The backend to use for `requested` on `device`, and why, for the log.

    Raises ValueError for a name that is unknown, or whose kernels are not installed or do not run there.
    """
    device = torch.device(device)
    if requested not in BACKENDS:
        raise ValueError(
            f"training.attention_backend is {requested!r}; allowed are {', '.join(BACKENDS)} (auto picks one)"
        )
    if requested == "cpu":
        return "cpu", "asked for; plain PyTorch, runs on every device"
    if requested == "auto":
        if device.type != "cuda":
            return "cpu", f"plain PyTorch: there are no flash kernels for {device.type}"
        problem = _problem("varlen", device)
        if problem is not None:
            return "cpu", f"plain PyTorch, slow on a GPU: {problem}"
        return "varlen", "torch's own flash attention for packed documents, with windows: nothing to install"
    problem = _problem(requested, device)
    if problem is not None:
        raise ValueError(f"training.attention_backend is {requested!r}: {problem}")
    return requested, "asked for"


def backends_by_device(requested: str) -> dict[str, str]:
    """The backend for tensors on each type of device of this machine: a model asks once, not in every step.

    A name other than "auto" stands for every device. Raises ValueError as `resolve_backend` does.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if requested != "auto":
        backend, _ = resolve_backend(requested, devices[-1])
        return dict.fromkeys(devices, backend)
    return {device: resolve_backend("auto", device)[0] for device in devices}


def _problem(backend: str, device: torch.device) -> str | None:
    """Why a GPU backend cannot run on the device, with the remedy; None if it can."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "it needs a CUDA device, and there is none or the run is not on it; use auto or cpu"
    lowest: tuple[int, int]
    too_high: tuple[int, int] | None
    if backend == "varlen":
        lowest, too_high = (8, 0), None
        if "window_size" not in inspect.signature(varlen.varlen_attn).parameters:
            return f"torch {torch.__version__} has no windows in varlen_attn; install torch 2.11 or newer"
    else:
        module, remedy, lowest, too_high = _FLASH_PACKAGES[backend]
        if not _is_installed(module):
            return f"the module {module} is not installed ({remedy}); or use auto"
    capability = torch.cuda.get_device_capability(device)
    if capability < lowest or (too_high is not None and capability >= too_high):
        bounds = f"from {lowest}" + (f" to below {too_high}" if too_high else "")
        name = torch.cuda.get_device_name(device)
        return f"it needs compute capability {bounds}, {name} has {capability}; use auto"
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around the module is missing or does not load
        return False


def _require_flash_input(qkv: torch.Tensor, backend: str) -> None:
    if qkv.device.type != "cuda":
        raise ValueError(
            f"training.attention_backend is {backend!r}, which runs on CUDA; the tensors are on"
            f" {qkv.device}: use auto or cpu"
        )
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"training.attention_backend is {backend!r}, which computes in bfloat16 or float16; the tensors"
            f" are {qkv.dtype}: set training.precision to bf16, or attention_backend to cpu (slow on a GPU)"
        )


def _check_segments(cu_seqlens: torch.Tensor, num_tokens: int, max_seqlen: int) -> None:
    lengths = cu_seqlens.diff()
    assert int(cu_seqlens[0]) == 0, "cu_seqlens must start at 0"
    assert int(cu_seqlens[-1]) == num_tokens, f"cu_seqlens must end at the number of tokens, {num_tokens}"
    assert int(lengths.min()) > 0, "a document is empty"
    assert int(lengths.max()) <= max_seqlen, f"a document has {int(lengths.max())} > {max_seqlen} tokens"
