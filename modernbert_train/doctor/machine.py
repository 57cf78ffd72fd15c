"""The machine: Python, driver, GPUs, compiler, shared memory, limits, name and clock."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from modernbert_train.doctor.findings import Finding

SHARED_MEMORY = Path("/dev/shm")
_GIB = 2**30
_LOWEST_PYTHON = (3, 11)
# Streaming's names: 000000_locals, 000003_barrier, ...
_STREAMING_SEGMENT = re.compile(r"^\d{6}_[a-z_]+$")


def python_version() -> Finding:
    """Whether it is as new as pyproject.toml asks for."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _LOWEST_PYTHON:
        return Finding("python", "problem", version, "install Python 3.11 or newer")
    return Finding("python", "ok", version)


def torch_version() -> Finding:
    """Windows in `varlen_attn` came with 2.11."""
    text = f"{torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs'}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        return Finding("torch", "problem", text, "pip install --no-deps -r requirements.lock")
    return Finding("torch", "ok", text)


def driver() -> Finding:
    """The driver against the CUDA that torch was built for: it must know that major version."""
    supported, built = _driver_cuda_version(), torch.version.cuda
    if supported is None:
        return Finding("driver", "ok", "no NVIDIA driver: this machine trains on its CPU")
    text = f"knows CUDA up to {supported[0]}.{supported[1]}"
    if built is None:
        return Finding(
            "driver", "problem", f"{text}, torch is built for CPUs", "install the torch of requirements.lock"
        )
    if supported[0] < int(built.split(".")[0]):
        remedy = f"update the driver, or install a torch that is built for CUDA {supported[0]}"
        return Finding("driver", "problem", f"{text}, torch is built for {built}", remedy)
    if not torch.cuda.is_available():
        remedy = "run nvidia-smi; in a container, start it with --gpus all; look at CUDA_VISIBLE_DEVICES"
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
    """Each GPU, and whether somebody else is on it."""
    findings = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        memory = f"{free / _GIB:.0f} of {total / _GIB:.0f} GiB free"
        text = f"{torch.cuda.get_device_name(index)}, capability {capability}, {memory}"
        if free < 0.9 * total:
            remedy = "another process holds its memory: see nvidia-smi"
            findings.append(Finding(f"gpu {index}", "warning", text, remedy))
        else:
            findings.append(Finding(f"gpu {index}", "ok", text))
    return findings


def compiler() -> Finding:
    """A C compiler, which torch.compile calls, and which is tried."""
    name = os.environ.get("CC") or next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), None)
    remedy = "install one (apt-get install gcc g++), or train with training.compile=false"
    if name is None:
        return Finding("compiler", "warning", "no C compiler: torch.compile cannot work", remedy)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.c"
        source.write_text("#include <math.h>\nint try_it(void) { return 0; }\n")
        command = [*name.split(), "-shared", "-fPIC", str(source), "-o", f"{folder}/try.so"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("compiler", "warning", f"{name} does not run ({error})", remedy)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("compiler", "warning", f"{name} cannot compile C ({last})", remedy)
    return Finding("compiler", "ok", name)


def shared_memory() -> Finding:
    """Space for batches on their way from the loader's workers; containers have 64 MiB unless told otherwise."""
    remedy = "docker run --shm-size=16g; Kubernetes: an emptyDir of medium Memory at /dev/shm"
    if not SHARED_MEMORY.is_dir():
        return Finding("shared memory", "problem", f"there is no {SHARED_MEMORY}", remedy)
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{free / _GIB:.1f} GiB free in {SHARED_MEMORY}"
    if free < _GIB / 4:
        return Finding("shared memory", "problem", text, remedy)
    return Finding("shared memory", "warning" if free < _GIB else "ok", text, remedy if free < _GIB else "")


def shared_memory_leftovers() -> Finding:
    """What Streaming has left in shared memory: of a run that still goes on, or of one that was killed."""
    names = [path.name for path in SHARED_MEMORY.glob("*") if _STREAMING_SEGMENT.match(path.name)]
    if not names:
        return Finding("leftovers", "ok", "no shared memory of Streaming's")
    return Finding(
        "leftovers",
        "warning",
        f"{len(names)} segments of shared memory of Streaming's ({min(names)}, ...)",
        f"if nothing trains on this machine, remove them: rm {SHARED_MEMORY}/[0-9][0-9][0-9][0-9][0-9][0-9]_*",
    )


def open_files() -> Finding:
    """Workers, shards and sockets take descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4_096:
        remedy = "ulimit -n 65536; in a container, --ulimit nofile=65536"
        return Finding("open files", "warning", f"at most {soft:,} (hard limit {hard:,})", remedy)
    return Finding("open files", "ok", f"at most {soft:,}" if soft != resource.RLIM_INFINITY else "no limit")


def host_name() -> Finding:
    """Whether other nodes could find this one by its name; one node alone has no need of it."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        remedy = (
            "for several nodes: give --master_addr an address, and name the network by NCCL_SOCKET_IFNAME"
        )
        return Finding("host name", "warning", f"{name} cannot be resolved ({error})", remedy)
    if address.startswith("127."):
        remedy = "for several nodes: name their network, GLOO_SOCKET_IFNAME=eth0 and NCCL_SOCKET_IFNAME=eth0"
        return Finding("host name", "warning", f"{name} is {address}, where no other node finds it", remedy)
    return Finding("host name", "ok", f"{name} is {address}")


def clock(folder: Path) -> Finding:
    """The machine's clock against that of the file system which holds `folder`."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            skew = os.stat(file.name).st_mtime - time.time()
    except OSError as error:
        return Finding("clock", "warning", f"not compared: {error}", "start this where you may write")
    if abs(skew) > 30:
        remedy = "set the clock (systemctl start chronyd or systemd-timesyncd)"
        return Finding("clock", "warning", f"{abs(skew):,.0f} seconds from that of {folder}", remedy)
    return Finding("clock", "ok", f"agrees with that of {folder}")
