"""The files beside a run's checkpoints that make it reproducible and exportable: recipe, provenance, tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from modernbert_train.checkpoints.run_files import METRICS_FILE, PROVENANCE_FILE, RECIPE_FILE, WANDB_ID_FILE
from modernbert_train.common.files import write_atomically
from modernbert_train.common.redaction import redact
from modernbert_train.config import ModelConfig, OptimizerConfig, Recipe, dump_recipe
from modernbert_train.config.comparison import (
    architecture_settings,
    changed_settings,
    flatten,
    recipe_settings,
)
from modernbert_train.store.tokenizer import TokenizerInfo, copy_tokenizer, load_tokenizer_info

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
        world_size: Number of ranks.
        fresh: Whether the run starts without a checkpoint. Metrics of an earlier run, whose checkpoints are gone, are
            then renamed, with a warning.
        skipped: All skipped steps and documents.
        device: Name of the GPU of rank 0, or "cpu".
    """
    make_run_folder(run)
    if fresh and (run / METRICS_FILE).exists():
        log.warning(
            "%s was started before but has no checkpoint, so it starts again; its metrics were renamed to %s.old",
            run,
            METRICS_FILE,
        )
        (run / METRICS_FILE).replace(run / f"{METRICS_FILE}.old")
    write_atomically(run / RECIPE_FILE, dump_recipe(recipe))
    launches = _previous_launches(run)
    launch = provenance(world_size, device)
    if launches and not fresh:
        for change in changes_since(launches[-1], launch):
            log.warning("%s", change)
    launches.append(launch | ({"skipped": dict(skipped)} if skipped else {}))
    write_atomically(run / PROVENANCE_FILE, json.dumps({"launches": launches}, indent=1) + "\n")
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
    installed, then = now["packages"], before.get("packages", now["packages"])
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
    if not file.exists():
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


def _previous_launches(run: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((run / PROVENANCE_FILE).read_text(encoding="utf-8"))["launches"]
    except (OSError, ValueError, KeyError):
        return []


def check_unchanged(run: Path, recipe: Recipe, tokenizer: TokenizerInfo) -> None:
    """Compare the recipe with the one that the run was last started with.

    Changes that checkpoints allow, such as a longer phase or another interval, are logged.

    Raises:
        ValueError: Architecture, tokenizer or optimizer differ, so the checkpoints would not fit, or the run was
            started for another phase.
    """
    if not (run / RECIPE_FILE).exists():
        return
    if load_tokenizer_info(run).fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"data.tokenizer is {recipe.data.tokenizer}: the checkpoints in {run} have another tokenizer; "
            "restore it and the stores made with it, or choose another run_folder"
        )
    # Recipes of older versions lack fields that were added since; their defaults match the earlier behaviour.
    older = flatten({"model": dataclasses.asdict(ModelConfig()), "optimizer": {"name": OptimizerConfig.name}})
    before = older | flatten(yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8")))
    now = recipe_settings(recipe)
    changed = dict(sorted(changed_settings(before, now).items()))
    if "phase" in changed:
        extents = [
            f"of the phase {side['phase']} alone" if side.get("phase") else "of all phases"
            for side in (before, now)
        ]
        raise ValueError(
            f"run_folder is {run}, which holds a run {extents[0]}, not {extents[1]}; choose another run_folder"
        )
    fields = architecture_settings(recipe.model)
    fatal = [f"{key} was {then}, is {value}" for key, (then, value) in changed.items() if key in fields]
    if "optimizer.name" in changed:
        raise ValueError(
            f"optimizer.name was {before['optimizer.name']}, is {recipe.optimizer.name}: the checkpoints in {run} hold "
            "the old optimizer's state; restore the value, or start a new run from its weights with init.from"
        )
    if fatal:
        raise ValueError(
            f"{', '.join(fatal)}: the checkpoints in {run} have another architecture; "
            "restore the value, or choose another run_folder"
        )
    for key, (then, value) in changed.items():
        log.warning("recipe changed since the last start: %s was %s, is %s", key, then, value)
