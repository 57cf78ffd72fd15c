"""The files beside a run's checkpoints that make it reproducible and exportable: recipe, provenance, tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from modernbert_train.checkpoints.run_files import PROVENANCE_FILE, RECIPE_FILE, WANDB_ID_FILE, set_aside
from modernbert_train.common.files import write_atomically
from modernbert_train.common.redaction import redact
from modernbert_train.common.text import one_line
from modernbert_train.config import ModelConfig, OptimizerConfig, Recipe, dump_recipe
from modernbert_train.config.comparison import changed_settings, flatten, recipe_settings
from modernbert_train.store.tokenizer import TokenizerInfo, copy_tokenizer

log = logging.getLogger(__name__)

_PACKAGES = (
    "torch",
    "mosaicml",
    "mosaicml-streaming",
    "torch-optimi",
    "transformers",
    "tokenizers",
    "numpy",
    "flash-attn",
)


def prepare_run_folder(
    run: Path,
    recipe: Recipe,
    tokenizer: TokenizerInfo,
    run_id: str,
    world_size: int,
    fresh: bool,
    skipped: Mapping[str, list[str]] | None = None,
    device: str = "cpu",
) -> None:
    """Write the resolved recipe, provenance and tokenizer into the run folder.

    What changed since the last start, of code, packages and machine, is logged if the run resumes.

    Args:
        run: The run folder.
        recipe: The recipe.
        tokenizer: The tokenizer of its data.
        run_id: The id of the run, which its checkpoints have too.
        world_size: Number of ranks.
        fresh: Whether the run starts without a checkpoint.
        skipped: All skipped steps and documents.
        device: Name of the GPU of rank 0, or "cpu".
    """
    make_run_folder(run)
    write_atomically(run / RECIPE_FILE, dump_recipe(recipe))
    launches = list(_read_provenance(run).get("launches", ()))
    launch = provenance(world_size, device)
    if launches and not fresh:
        for change in changes_since(launches[-1], launch):
            log.warning("%s", change)
    launches.append(launch | ({"skipped": dict(skipped)} if skipped else {}))
    content = {"run": run_id, "launches": launches}
    write_atomically(run / PROVENANCE_FILE, json.dumps(content, indent=1) + "\n")
    copy_tokenizer(tokenizer.path, run)


def make_run_folder(run: Path) -> None:
    """Create a run folder.

    Raises:
        ValueError: It cannot be created.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"run_folder is {run}, which cannot be created ({error.strerror}); choose a folder that is writable"
        ) from error


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect the computation."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def provenance(world_size: int, device: str) -> dict[str, Any]:
    """Return code version, package versions, machine and command of this launch."""
    return {
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": [redact(word) for word in sys.argv],
        "git_commit": git_commit(),
        "code": code_hash(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "host": socket.gethostname(),
        "device": device,
        "world_size": world_size,
    }


def changes_since(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each fact of a launch that differs from the last one; older versions lack some facts."""
    facts = {
        "commit": "git_commit",
        "files of the package": "code",
        "Python": "python",
        "host": "host",
        "device": "device",
        "number of ranks": "world_size",
    }
    pairs = {name: (before[key], now[key]) for name, key in facts.items() if key in before}
    installed, then = now["packages"], before.get("packages")
    if not isinstance(then, dict):
        then = installed
    pairs |= {
        f"package {name}": (then.get(name), installed.get(name)) for name in sorted({*installed, *then})
    }
    return [
        f"{name} changed since the last start: was {was or 'none'}, is {value or 'none'}"
        for name, (was, value) in pairs.items()
        if was != value
    ]


def code_hash() -> str:
    """Hash the source files: a commit does not cover later changes, and a container image has none."""
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    content = b"".join(os.fsencode(path.relative_to(package)) + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()[:16]


def wandb_id(run: Path) -> str:
    """Return the W&B id of this run folder, the same for all restarts; create it if needed."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / WANDB_ID_FILE
    if file.exists():
        found = file.read_bytes()
        if re.fullmatch(rb"[\w-]{1,64}", found):
            return found.decode()
        set_aside(file, "it holds no id of a W&B run")
    write_atomically(file, uuid.uuid4().hex[:12])
    return file.read_text(encoding="utf-8")


def git_commit() -> str | None:
    """Return the commit of the running code, with "-dirty" if files were changed; None outside a git checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def run_of(run: Path) -> str | None:
    """Return the id of the run that a run folder belongs to; None if no start of it is recorded."""
    found = _read_provenance(run).get("run")
    return found if isinstance(found, str) else None


def _read_provenance(run: Path) -> dict[str, Any]:
    """Return the content of provenance.json, empty without the file; a damaged one is set aside."""
    file = run / PROVENANCE_FILE
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        launches = content["launches"]
        if not isinstance(launches, list) or not all(isinstance(launch, dict) for launch in launches):
            raise ValueError("launches is no list of objects")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        set_aside(file, f"it cannot be read ({one_line(error)})")
        return {}
    return dict(content)


def check_unchanged(run: Path, recipe: Recipe) -> None:
    """Log what changed in the recipe since the run was last started, which its checkpoints allow.

    Args:
        run: The run folder.
        recipe: The recipe.

    Raises:
        ValueError: The run was started for another phase.
    """
    file = run / RECIPE_FILE
    if not file.exists():
        return
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        set_aside(file, f"it cannot be read ({one_line(error):.200})")
        return
    # Recipes of older versions lack fields that were added since; their defaults match the earlier behaviour.
    older = flatten({"model": dataclasses.asdict(ModelConfig()), "optimizer": {"name": OptimizerConfig.name}})
    before, now = older | flatten(content), recipe_settings(recipe)
    changed = dict(sorted(changed_settings(before, now).items()))
    if "phase" in changed:
        extents = [
            f"of the phase {side['phase']} alone" if side.get("phase") else "of all phases"
            for side in (before, now)
        ]
        raise ValueError(
            f"run_folder is {run}, which holds a run {extents[0]}, not {extents[1]}; choose another run_folder"
        )
    for key, (then, value) in changed.items():
        log.warning("recipe changed since the last start: %s was %s, is %s", key, then, value)
