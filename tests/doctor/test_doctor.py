"""Each check finds what it looks for: tests change what the machine reports, never the check."""

import ctypes
import functools
import json
import os
import re
import resource
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modernbert_train.cli import main
from modernbert_train.doctor import Finding, as_json, as_text, kernels, machine, requirements
from tests.helpers.recipes import load_tiny, make_tiny

REAL_DISK_USAGE = shutil.disk_usage
REAL_CDLL = ctypes.CDLL


@pytest.fixture
def tiny(tmp_path):
    return load_tiny(tmp_path)


def levels(findings):
    return [finding.level for finding in findings]


def test_python(monkeypatch):
    assert machine.python_version().level == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert machine.python_version() == Finding("python", "problem", "3.10.4", "install Python 3.11 or newer")


def test_torch(monkeypatch):
    assert machine.torch_version().level == "ok"
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert machine.torch_version().level == "problem"


def with_driver(monkeypatch, version):
    """Pretend that the driver supports CUDA up to this version: 13000 is 13.0."""

    def version_of_driver(pointer):
        pointer._obj.value = version
        return 0

    def load(name, *rest):
        return (
            SimpleNamespace(cuDriverGetVersion=version_of_driver)
            if name == "libcuda.so.1"
            else REAL_CDLL(name, *rest)
        )

    monkeypatch.setattr(ctypes, "CDLL", load)


@pytest.mark.parametrize(
    ("known", "built", "gpu", "level", "text"),
    [
        (13_000, "13.0", True, "ok", "supports CUDA up to 13.0, torch is built for 13.0"),
        (13_020, "13.0", True, "ok", "supports CUDA up to 13.2, torch is built for 13.0"),
        (12_080, "13.0", False, "problem", "supports CUDA up to 12.8, but torch is built for 13.0"),
        (12_020, "12.8", True, "ok", "supports CUDA up to 12.2, torch is built for 12.8"),
        (13_000, None, False, "problem", "supports CUDA up to 13.0, but torch is built for CPUs"),
        (13_000, "13.0", False, "problem", "supports CUDA up to 13.0, but torch finds no GPU"),
    ],
)
def test_driver(monkeypatch, known, built, gpu, level, text):
    with_driver(monkeypatch, known)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    finding = machine.driver()
    assert (finding.level, finding.text) == (level, text)
    assert bool(finding.remedy) == (level == "problem")


def test_no_driver(monkeypatch):
    def missing(name, *rest):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert machine.driver().level == "ok"


def test_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ([79, 20][index] * 2**30, 80 * 2**30))
    findings = machine.gpus()
    assert levels(findings) == ["ok", "warning"]
    assert findings[1].text == "NVIDIA H100, capability 9.0, 20 of 80 GiB free"


def test_compiler(monkeypatch, tmp_path):
    assert machine.compiler().level == "ok"
    monkeypatch.setenv("CC", "false")
    assert machine.compiler().text == "false cannot compile C (no message)"
    monkeypatch.setenv("CC", "no-such-compiler")
    assert machine.compiler().text.startswith("no-such-compiler does not run")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.compiler().text == "no C compiler, which torch.compile needs"


@pytest.mark.parametrize(("free", "level"), [(2**26, "problem"), (2**29, "warning"), (2**34, "ok")])
def test_shared_memory(monkeypatch, free, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert machine.shared_memory().level == level


def test_no_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "gone")
    assert machine.shared_memory().level == "problem"


def test_open_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 1_048_576))
    finding = machine.open_files()
    assert (finding.level, finding.text) == ("warning", "at most 1,024 (hard limit 1,048,576)")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert machine.open_files() == Finding("open files", "ok", "no limit")


def test_host_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.7")
    assert machine.host_name() == Finding("host name", "ok", "node7 is 10.0.0.7")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    assert machine.host_name().text == "node7 is 127.0.1.1, which other nodes cannot reach"

    def unknown(name):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert machine.host_name().text.startswith("node7 cannot be resolved")


def test_attention_on_a_cpu():
    findings = kernels.attention_kernels()
    assert [finding.check for finding in findings] == ["attention torch", "attention auto"]
    assert levels(findings) == ["ok", "ok"]


def test_attention_that_a_recipe_asks_for():
    finding = next(
        finding for finding in kernels.attention_kernels("flash2") if finding.check == "attention flash2"
    )
    assert finding.level == "problem"
    assert "flash2" in finding.text


def test_attention_that_fails_or_is_wrong(monkeypatch):
    """One kernel does not load, another returns something else."""
    good = kernels.attention

    def broken(*arguments):
        raise ImportError("undefined symbol: _ZN3c104")

    monkeypatch.setattr(kernels, "attention", broken)
    finding = kernels.attention_kernels()[0]
    assert (finding.level, finding.text) == ("warning", "fails: ImportError: undefined symbol: _ZN3c104")
    assert kernels.attention_kernels("torch")[0].level == "problem"
    calls = iter(range(4))
    monkeypatch.setattr(
        kernels, "attention", lambda *arguments: good(*arguments) * (1.1 if next(calls) == 0 else 1)
    )
    finding = kernels.attention_kernels()[0]
    assert finding.level == "problem"
    assert finding.text.startswith("output or gradient differs from plain PyTorch by ")


def test_a_kernel_in_half_precision_is_compared_with_and_without_a_window(monkeypatch):
    """Plain PyTorch in bfloat16 takes the place of a kernel."""
    windows, plain = [], kernels.attention

    def attention(qkv, cu_seqlens, max_seqlen, window, backend):
        windows.append((window, qkv.dtype))
        return plain(qkv, cu_seqlens, max_seqlen, window, "torch")

    monkeypatch.setattr(kernels, "attention", attention)
    assert 0 < kernels._max_difference("varlen", "cpu") < kernels._TOLERANCE
    half, single = torch.bfloat16, torch.float32
    assert windows == [(None, half), (None, single), (8, half), (8, single)]


def test_collectives(monkeypatch):
    assert kernels.collectives() == [Finding("gloo", "ok", "all-reduce over 2 processes")]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-network")
    (finding,) = kernels.collectives()
    assert finding.level == "problem"
    assert "no-such-network" in finding.text
    assert finding.remedy.startswith("set GLOO_SOCKET_IFNAME")


def test_stores(tiny):
    findings = requirements.stores(tiny)
    assert levels(findings) == ["ok"] * 3
    assert "are intact" in findings[1].text
    for split, check in (("train", "source web"), ("valid", "source web, held out")):
        shard = sorted((Path(tiny.data.sources["web"].store) / "web" / split).glob("*.mds"))[-1]
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (problem,) = [finding for finding in requirements.stores(tiny) if finding.level == "problem"]
        assert (problem.check, problem.text) == (
            check, f"{shard} is damaged (its sha1 differs from the recorded one)"
        )  # fmt: skip
        shard.write_bytes(whole)
    shutil.rmtree(tiny.data.sources["web"].store)
    (finding,) = requirements.stores(tiny)
    assert (finding.level, "does not exist" in finding.text) == ("problem", True)


def test_disk(tiny, monkeypatch):
    finding = requirements.disk(tiny)
    assert finding.level == "ok"
    assert re.search(r"checkpoints take up to \d\.\d+MB$", finding.text)
    needed = requirements.checkpoints_on_disk_bytes(tiny, requirements.build_schedule(tiny))
    folder = Path(tiny.run_folder).parent
    for free, level in ((needed - 1, "problem"), (2 * needed - 1, "warning"), (2 * needed, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert requirements.disk(tiny).level == level
        assert str(folder) in requirements.disk(tiny).text
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert requirements.disk(tiny) == Finding(
        "disk", "problem", f"{folder} is not writable", "choose another run_folder"
    )


def test_the_report():
    findings = [
        Finding("torch", "ok", "2.14"),
        Finding("open files", "warning", "few", "more"),
        Finding("x", "problem", "y"),
    ]
    assert as_text(findings).splitlines() == [
        "ok       torch       2.14",
        "warning  open files  few",
        "                     -> more",
        "problem  x           y",
        "",
        "1 problem and 1 warning",
    ]
    assert as_text(findings[:1]).splitlines()[-1] == "no problems found"
    assert json.loads(as_json(findings))[1] == {
        "check": "open files",
        "level": "warning",
        "text": "few",
        "remedy": "more",
    }


def test_the_command(tmp_path, capsys, monkeypatch):
    path = make_tiny(tmp_path)
    monkeypatch.setattr(kernels, "collectives", functools.cache(kernels.collectives))  # takes seconds
    assert main(["doctor", str(path), "--json"]) == 0
    checks = [finding["check"] for finding in json.loads(capsys.readouterr().out)]
    assert checks[:3] == ["python", "torch", "driver"]
    assert checks[-5:] == ["host name", "tokenizer", "source web", "source code", "disk"]
    monkeypatch.setenv("CC", "false")
    assert main(["doctor"]) == 0
    assert "warning  compiler" in capsys.readouterr().out
    assert main(["doctor", str(path), "training.compile=true"]) == 1
    assert "problem  compiler" in capsys.readouterr().out
