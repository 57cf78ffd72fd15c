"""The lock files and what the Makefile installs of them."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-evaluation.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The lock with the packages of each extra; flash-attn is compiled where it is wanted.
EXTRAS = {"evaluation": LOCKS[1], "onnx": LOCKS[1], "dev": LOCKS[2]}

PIP = """#!/bin/sh
echo "$*" | grep -o "requirements[a-z-]*.lock" >> installed || true
"""
PYTHON = """#!/bin/sh
[ "$2" = venv ] || exit 0
mkdir -p .venv/bin && cp pip .venv/bin/pip
"""


def pins(lock: str) -> dict[str, list[Requirement]]:
    """Return name -> pins, of which there are several where the version depends on that of Python."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_no_name_stands_in_two_locks():
    names = [name for lock in LOCKS for name in pins(lock)]
    assert sorted(names) == sorted(set(names))


def test_every_extra_has_a_lock():
    assert {*EXTRAS, "gpu"} == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_the_locks_have_what_pyproject_asks_for(extra):
    lock = pins(EXTRAS[extra] if extra else LOCKS[0])
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        asked = Requirement(line)
        for pin in lock[canonicalize_name(asked.name)]:
            (exact,) = pin.specifier
            assert (exact.operator, asked.specifier.contains(exact.version)) == ("==", True), pin


def test_each_lock_is_installed_once(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in {"pip": PIP, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def installed_by(target: str) -> list[str]:
        (tmp_path / "installed").write_text("")
        subprocess.run(["make", target, "PYTHON=./python"], cwd=tmp_path, check=True, capture_output=True)
        return re.findall(r"\S+", (tmp_path / "installed").read_text())

    assert installed_by("setup") == [LOCKS[0]]
    assert installed_by("setup-all") == [LOCKS[1], LOCKS[2]]
    assert installed_by("setup") == installed_by("setup-all") == []
    os.utime(tmp_path / LOCKS[1])
    assert installed_by("setup") == []
    assert installed_by("setup-all") == [LOCKS[1], LOCKS[2]]
    shutil.rmtree(tmp_path / ".venv")
    assert installed_by("setup-all") == [*LOCKS]
