"""Which attention backend runs on a device, and why."""

import importlib.util
import inspect

import torch
from torch.nn.attention import varlen

BACKENDS = ("auto", "varlen", "flash2", "flash3", "flash4", "torch")


# Module with the kernels, how to get it, compute capabilities it runs on: the lowest, the first too high.
_FLASH_PACKAGES = {
    "flash2": ("flash_attn_2_cuda", "pip install 'flash-attn>=2.7'", (8, 0), None),
    "flash3": ("flash_attn_interface", "build it from flash-attention's folder hopper/", (9, 0), (10, 0)),
    "flash4": ("flash_attn.cute", "pip install flash-attn-4", (9, 0), None),
}


def resolve_backend(requested: str, device: torch.device | str) -> tuple[str, str]:
    """The backend to use for `requested` on `device`, and why, for the log.

    Raises ValueError for a name that is unknown, or whose kernels are not installed or do not run there.
    """
    device = torch.device(device)
    if requested not in BACKENDS:
        raise ValueError(
            f"training.attention_backend is {requested!r}; allowed are {', '.join(BACKENDS)} (auto picks one)"
        )
    if requested == "torch":
        return "torch", "asked for; plain PyTorch, runs on every device"
    if requested == "auto":
        if device.type != "cuda":
            return "torch", f"plain PyTorch: there are no flash kernels for {device.type}"
        problem = _problem("varlen", device)
        if problem is not None:
            return "torch", f"plain PyTorch, slow on a GPU: {problem}"
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
        return "it needs a CUDA device, and there is none or the run is not on it; use auto or torch"
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
