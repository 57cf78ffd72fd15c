"""Checks that run something: attention kernels, forward and backward, and collectives between processes."""

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

# Between bf16 and fp32, for values around 1.
_TOLERANCE = 2e-2
# For the processes of a collective to start, connect and finish.
_TIMEOUT_SECONDS = 120

# The program of one rank: an all-reduce over all ranks.
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
    """Check each usable backend on two documents; one that is not installed is a problem only if `requested`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    findings = []
    for backend in BACKENDS[1:]:
        try:
            resolve_backend(backend, device)
        except ValueError as error:
            if backend == requested:
                findings.append(Finding(f"attention {backend}", "problem", str(error), "use auto"))
            continue
        findings.append(_check_backend(backend, device, is_requested=backend == requested))
    chosen, why = resolve_backend("auto", device)
    level: Level = "warning" if device == "cuda" and chosen == "torch" else "ok"
    return [*findings, Finding("attention auto", level, f"{chosen} ({why})")]


def _check_backend(backend: str, device: str, is_requested: bool) -> Finding:
    try:
        difference = _max_difference(backend, device)
    except Exception as error:  # a kernel built for another torch may raise anything
        text = f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        remedy = "install a build for this torch and CUDA, or use auto"
        return Finding(f"attention {backend}", "problem" if is_requested else "warning", text, remedy)
    if not difference < _TOLERANCE:
        text = f"output or gradient differs from plain PyTorch by {difference:.1e}"
        return Finding(f"attention {backend}", "problem", text, "do not train with it; use another build")
    return Finding(
        f"attention {backend}", "ok", f"forward and backward, within {difference:.0e} of plain PyTorch"
    )


def _max_difference(backend: str, device: str) -> float:
    """Return the largest difference of outputs and gradients from the torch backend in fp32."""
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
            qkv = values.to(dtype, copy=True).requires_grad_()
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
    """Check an all-reduce over two processes with gloo, and over all GPUs of this machine with NCCL."""
    findings = [_collective("gloo", 2)]
    if torch.cuda.is_available():
        findings.append(_collective("nccl", torch.cuda.device_count()))
    return findings


def _collective(backend: str, world_size: int) -> Finding:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world_size)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _COLLECTIVE, backend],
            env={**os.environ, **rendezvous, "RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    problem = ""
    for rank in ranks:
        try:
            _, errors = rank.communicate(timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            problem = problem or f"not finished after {_TIMEOUT_SECONDS} seconds"
            break
        if rank.returncode != 0:
            problem = problem or (errors.strip().splitlines() or [f"exit status {rank.returncode}"])[-1]
    for rank in ranks:
        rank.kill()
        rank.communicate()
    if problem:
        variable = "NCCL" if backend == "nccl" else "GLOO"
        remedy = f"set {variable}_SOCKET_IFNAME to the interface that connects the nodes (see: ip addr)"
        if backend == "nccl":
            remedy += "; set NCCL_DEBUG=INFO for details"
        return Finding(backend, "problem", problem, remedy)
    return Finding(backend, "ok", f"all-reduce over {world_size} process{'es' if world_size > 1 else ''}")
