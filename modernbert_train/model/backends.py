"""Choice of the attention backend for a device."""

import importlib.util
import inspect
from typing import get_args

import torch
from torch.nn.attention import varlen

from modernbert_train.config.schema import AttentionBackend

BACKENDS = get_args(AttentionBackend)

# Module with the kernels, how to get it, lowest compute capability, first capability that is too high.
_FLASH_PACKAGES = {
    "flash2": ("flash_attn_2_cuda", "pip install 'flash-attn>=2.7'", (8, 0), None),
    "flash3": ("flash_attn_interface", "build it from flash-attention's folder hopper/", (9, 0), (10, 0)),
    "flash4": ("flash_attn.cute", "pip install flash-attn-4", (9, 0), None),
}


def resolve_backend(requested: str, device: torch.device | str) -> tuple[str, str]:
    """Resolve the backend that a recipe requests to the one that runs on a device.

    Returns:
        The backend, never "auto", and the reason for it, for the log.

    Raises:
        ValueError: if the name is unknown, or its kernels are not installed or do not run on the device.
    """
    device = torch.device(device)
    if requested not in BACKENDS:
        raise ValueError(
            f"training.attention_backend is {requested!r}; allowed are {', '.join(BACKENDS)} (auto picks one)"
        )
    if requested == "torch":
        return "torch", "requested; plain PyTorch, which runs on every device"
    if requested == "auto":
        if device.type != "cuda":
            return "torch", f"plain PyTorch; there are no flash kernels for {device.type}"
        problem = _problem("varlen", device)
        if problem is not None:
            return "torch", f"plain PyTorch, slow on a GPU: {problem}"
        return "varlen", "torch's flash attention for packed documents; nothing to install"
    problem = _problem(requested, device)
    if problem is not None:
        raise ValueError(f"training.attention_backend is {requested!r}: {problem}")
    return requested, "requested"


def backends_by_device(requested: str) -> dict[str, str]:
    """Resolve the backend once for each type of device of this machine, so that a model need not in every step.

    Returns:
        Device type -> backend. A requested backend other than "auto" applies to all of them.

    Raises:
        ValueError: as for `resolve_backend`.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if requested != "auto":
        backend, _ = resolve_backend(requested, devices[-1])
        return dict.fromkeys(devices, backend)
    return {device: resolve_backend("auto", device)[0] for device in devices}


def _problem(backend: str, device: torch.device) -> str | None:
    """Return why a GPU backend cannot run on the device, and the remedy; None if it can."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "it needs a CUDA device, but there is none or the run does not use it; use auto or torch"
    lowest: tuple[int, int]
    too_high: tuple[int, int] | None
    if backend == "varlen":
        lowest, too_high = (8, 0), None
        if "window_size" not in inspect.signature(varlen.varlen_attn).parameters:
            return f"varlen_attn of torch {torch.__version__} has no windows; install torch 2.11 or newer"
    else:
        module, remedy, lowest, too_high = _FLASH_PACKAGES[backend]
        if not _is_installed(module):
            return f"the module {module} is not installed; {remedy}, or use auto"
    capability = torch.cuda.get_device_capability(device)
    if capability < lowest or (too_high is not None and capability >= too_high):
        bounds = f"{_version(lowest)} or newer" + (
            f" and older than {_version(too_high)}" if too_high else ""
        )
        name = torch.cuda.get_device_name(device)
        return f"it needs compute capability {bounds}, but {name} has {_version(capability)}; use auto"
    return None


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the parent package is missing or fails to import
        return False
