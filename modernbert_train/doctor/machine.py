"""Checks of the machine: Python, torch, driver, GPUs, compiler, shared memory, limits and host name."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from modernbert_train.doctor.findings import Finding

SHARED_MEMORY = Path("/dev/shm")
_GIB = 2**30
_LOWEST_PYTHON = (3, 11)


def python_version() -> Finding:
    """Check that Python is as new as pyproject.toml requires."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _LOWEST_PYTHON:
        return Finding("python", "problem", version, "install Python 3.11 or newer")
    return Finding("python", "ok", version)


def torch_version() -> Finding:
    """Check that torch is 2.11 or newer: earlier versions of its `varlen_attn` have no windows."""
    text = f"{torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs'}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        return Finding("torch", "problem", text, "pip install --no-deps -r requirements.lock")
    return Finding("torch", "ok", text)


def driver() -> Finding:
    """Check that the driver supports the major CUDA version that torch was built for."""
    supported, built = _driver_cuda_version(), torch.version.cuda
    if supported is None:
        return Finding("driver", "ok", "no NVIDIA driver: training uses the CPU")
    text = f"supports CUDA up to {supported[0]}.{supported[1]}"
    if built is None:
        return Finding(
            "driver",
            "problem",
            f"{text}, but torch is built for CPUs",
            "install torch from requirements.lock: pip install --no-deps -r requirements.lock",
        )
    if supported[0] < int(built.split(".")[0]):
        remedy = f"update the driver, or install a torch built for CUDA {supported[0]}"
        return Finding("driver", "problem", f"{text}, but torch is built for {built}", remedy)
    if not torch.cuda.is_available():
        remedy = "run nvidia-smi; start a container with --gpus all; check CUDA_VISIBLE_DEVICES"
        return Finding("driver", "problem", f"{text}, but torch finds no GPU", remedy)
    return Finding("driver", "ok", f"{text}, torch is built for {built}")


def _driver_cuda_version() -> tuple[int, int] | None:
    try:
        version = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def gpus() -> list[Finding]:
    """Check each GPU, and whether another process uses its memory."""
    findings = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        memory = f"{free / _GIB:.0f} of {total / _GIB:.0f} GiB free"
        text = f"{torch.cuda.get_device_name(index)}, capability {capability}, {memory}"
        if free < 0.9 * total:
            remedy = "another process uses this GPU: find it with nvidia-smi"
            findings.append(Finding(f"gpu {index}", "warning", text, remedy))
        else:
            findings.append(Finding(f"gpu {index}", "ok", text))
    return findings


def compiler() -> Finding:
    """Check that there is a working C compiler, which torch.compile needs."""
    name = os.environ.get("CC") or next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), None)
    remedy = "install one (apt-get install gcc g++), or set training.compile=false"
    if name is None:
        return Finding("compiler", "warning", "no C compiler, which torch.compile needs", remedy)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "check.c"
        source.write_text("#include <math.h>\nint check(void) { return 0; }\n")
        command = [*name.split(), "-shared", "-fPIC", str(source), "-o", f"{folder}/check.so"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("compiler", "warning", f"{name} does not run ({error})", remedy)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("compiler", "warning", f"{name} cannot compile C ({last})", remedy)
    return Finding("compiler", "ok", name)


def shared_memory() -> Finding:
    """Check the size of /dev/shm, through which NCCL connects the GPUs of a node. Containers have 64 MiB by default."""
    remedy = "Docker: --shm-size=16g; Kubernetes: an emptyDir volume with medium Memory at /dev/shm"
    if not SHARED_MEMORY.is_dir():
        return Finding("shared memory", "problem", f"{SHARED_MEMORY} does not exist", remedy)
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{free / _GIB:.1f} GiB free in {SHARED_MEMORY}"
    if free < _GIB / 4:
        return Finding("shared memory", "problem", text, remedy)
    return Finding("shared memory", "warning" if free < _GIB else "ok", text, remedy if free < _GIB else "")


def open_files() -> Finding:
    """Check the limit on open files: shards, loader workers and sockets each use some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4_096:
        remedy = "raise it with ulimit -n 65536; Docker: --ulimit nofile=65536"
        return Finding("open files", "warning", f"at most {soft:,} (hard limit {hard:,})", remedy)
    return Finding("open files", "ok", f"at most {soft:,}" if soft != resource.RLIM_INFINITY else "no limit")


def host_name() -> Finding:
    """Check that the host name resolves to an address that other nodes can reach."""
    # Gloo listens there unless GLOO_SOCKET_IFNAME is set, and Debian resolves the name to 127.0.1.1.
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        remedy = (
            "for several nodes: give --master_addr an address; set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        )
        return Finding("host name", "warning", f"{name} cannot be resolved ({error})", remedy)
    if address.startswith("127."):
        remedy = (
            "for several nodes: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to their network, such as eth0"
        )
        return Finding("host name", "warning", f"{name} is {address}, which other nodes cannot reach", remedy)
    return Finding("host name", "ok", f"{name} is {address}")
