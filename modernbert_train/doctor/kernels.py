"""What runs on the machine: attention kernels, forward and backward, and collectives between processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import torch

from modernbert_train.doctor.findings import Finding, Level
from modernbert_train.model import resolve_backend
from modernbert_train.model.attention import attention
from modernbert_train.model.backends import BACKENDS

_TOLERANCE = 2e-2  # bf16 against fp32, values around 1
_SECONDS = 120  # for the processes of a collective to start, meet and end

# One rank: the sum over all ranks of what each holds.
_COLLECTIVE = """
import os, sys, torch
import torch.distributed as dist
backend, rank = sys.argv[1], int(os.environ["RANK"])
device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
if backend == "nccl":
    torch.cuda.set_device(device)
dist.init_process_group(backend)
total = torch.full((1024,), float(rank + 1), device=device)
dist.all_reduce(total)
assert total.eq(sum(range(dist.get_world_size() + 1))).all(), total
dist.destroy_process_group()
"""


def attention_kernels(requested: str = "auto") -> list[Finding]:
    """Each backend that this machine could use, tried on two documents, and that which a recipe would get.

    Flash kernels that are not installed are no fault, unless `requested` is one of them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    findings = []
    for backend in BACKENDS[1:]:
        try:
            resolve_backend(backend, device)
        except ValueError as error:
            if backend == requested:
                findings.append(Finding(f"attention {backend}", "problem", str(error), "use auto"))
            continue
        findings.append(_tried(backend, device, wanted=backend == requested))
    chosen, why = resolve_backend("auto", device)
    level: Level = "warning" if device == "cuda" and chosen == "torch" else "ok"
    return [*findings, Finding("attention auto", level, f"{chosen} ({why})")]


def _tried(backend: str, device: str, wanted: bool) -> Finding:
    try:
        difference = _difference(backend, device)
    except Exception as error:  # of whatever kind a kernel built for another torch may raise
        text = f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        remedy = "install a build for this torch and CUDA, or use auto"
        return Finding(f"attention {backend}", "problem" if wanted else "warning", text, remedy)
    if not difference < _TOLERANCE:
        text = f"differs from plain PyTorch by {difference:.1e}, forward or backward"
        return Finding(f"attention {backend}", "problem", text, "do not train with it; use another build")
    return Finding(
        f"attention {backend}", "ok", f"forward and backward, within {difference:.0e} of plain PyTorch"
    )


def _difference(backend: str, device: str) -> float:
    """Largest difference of outputs and gradients from the plain backend in fp32, with and without a window."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(48, 3, 2, 64, generator=generator).to(device)
    cu_seqlens = torch.tensor([0, 31, 48], dtype=torch.int32, device=device)
    largest = 0.0
    for window in (None, 8):
        results = []
        for name, dtype in (
            (backend, torch.float32 if backend == "torch" else torch.bfloat16),
            ("torch", torch.float32),
        ):
            qkv = values.to(dtype).requires_grad_()
            out = attention(qkv, cu_seqlens, 64, window, name)
            out.float().square().sum().backward()
            assert qkv.grad is not None
            results.append((out.detach().float(), qkv.grad.float()))
        (out, gradient), (expected, expected_gradient) = results
        scale = max(1.0, float(expected_gradient.abs().max()))
        largest = max(largest, float((out - expected).abs().max()))
        largest = max(largest, float((gradient - expected_gradient).abs().max()) / scale)
    return largest


def collectives() -> list[Finding]:
    """A sum over two processes by gloo, and over all GPUs by NCCL, as the ranks of a node would take it."""
    findings = [_collective("gloo", 2)]
    if torch.cuda.is_available():
        findings.append(_collective("nccl", torch.cuda.device_count()))
    return findings


def _collective(backend: str, world_size: int) -> Finding:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world_size)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _COLLECTIVE, backend],
            env={**os.environ, **own, "RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    problem = ""
    for rank in ranks:
        try:
            _, errors = rank.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            problem = problem or f"no answer within {_SECONDS} seconds"
            break
        if rank.returncode != 0:
            problem = problem or (errors.strip().splitlines() or [f"ended with {rank.returncode}"])[-1]
    for rank in ranks:
        rank.kill()
        rank.communicate()
    if problem:
        variable = "NCCL" if backend == "nccl" else "GLOO"
        remedy = f"set {variable}_SOCKET_IFNAME to the network of the nodes (ip addr)"
        if backend == "nccl":
            remedy += "; NCCL_DEBUG=INFO says more"
        return Finding(backend, "problem", problem, remedy)
    return Finding(backend, "ok", f"summed over {world_size} process{'es' if world_size > 1 else ''}")
