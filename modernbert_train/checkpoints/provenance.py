"""What a run leaves beside its checkpoints so that it can be understood, repeated and exported later."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from modernbert_train.checkpoints.run_files import METRICS_FILE, PROVENANCE_FILE, RECIPE_FILE, WANDB_ID_FILE
from modernbert_train.common.files import write_atomically
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
) -> None:
    """Write resolved recipe, provenance and tokenizer into the run folder. `skipped`: steps and documents, in full.

    A `fresh` run that finds the metrics of an earlier one, whose checkpoints are gone, says so and puts them aside.
    """
    make_run_folder(run)
    if fresh and (run / METRICS_FILE).exists():
        log.warning(
            "%s was begun before and has no checkpoint: it begins anew; the metrics so far are now %s.old",
            run,
            METRICS_FILE,
        )
        (run / METRICS_FILE).replace(run / f"{METRICS_FILE}.old")
    write_atomically(run / RECIPE_FILE, dump_recipe(recipe))
    launches = _previous_launches(run)
    launches.append(provenance(world_size) | ({"skipped": dict(skipped)} if skipped else {}))
    write_atomically(run / PROVENANCE_FILE, json.dumps({"launches": launches}, indent=1) + "\n")
    copy_tokenizer(tokenizer.path, run)


def make_run_folder(run: Path) -> None:
    """ValueError if it cannot be made."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"run_folder is {run}, which cannot be made ({error.strerror}); name a folder that you may write to"
        ) from error


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what is computed, of those that are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def provenance(world_size: int) -> dict[str, Any]:
    """Code version, package versions and command of this launch."""
    return {
        "command": sys.argv,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "world_size": world_size,
    }


def wandb_id(run: Path) -> str:
    """The id under which W&B knows this run folder, over all its restarts."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / WANDB_ID_FILE
    if not file.exists():
        write_atomically(file, uuid.uuid4().hex[:12])
    return file.read_text(encoding="utf-8")


def git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" where files differ from it; None outside its git checkout."""
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
    """Compare the recipe with that of the last start of the run.

    ValueError for another architecture, tokenizer or optimizer: the checkpoints would not fit; and for a run of
    another phase alone, or of all. Other changes (a longer phase, another interval) are allowed, and listed in the log.
    """
    if not (run / RECIPE_FILE).exists():
        return
    if load_tokenizer_info(run).fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"data.tokenizer is {recipe.data.tokenizer}: the checkpoints in {run} have another tokenizer; "
            "restore it and the stores made with it, or name another run_folder"
        )
    # A run of an older version has not written down the fields added since, whose defaults are what it did.
    older = flatten({"model": dataclasses.asdict(ModelConfig()), "optimizer": {"name": OptimizerConfig.name}})
    before = older | flatten(yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8")))
    now = recipe_settings(recipe)
    changed = dict(sorted(changed_settings(before, now).items()))
    if "phase" in changed:
        of = [
            f"of the phase {side['phase']} alone" if side.get("phase") else "of all phases"
            for side in (before, now)
        ]
        raise ValueError(
            f"run_folder is {run}, which holds a run {of[0]}, not {of[1]}; name another run_folder"
        )
    fields = architecture_settings(recipe.model)
    fatal = [f"{key} was {then}, is {value}" for key, (then, value) in changed.items() if key in fields]
    if "optimizer.name" in changed:
        raise ValueError(
            f"optimizer.name was {before['optimizer.name']}, is {recipe.optimizer.name}: the checkpoints in {run} hold "
            "the state of the former; restore the value, or start a new run from its weights with init.from"
        )
    if fatal:
        raise ValueError(
            f"{', '.join(fatal)}: the checkpoints in {run} have another architecture; "
            "restore the value, or name another run_folder"
        )
    for key, (then, value) in changed.items():
        log.warning("recipe changed since the last start: %s was %s, is %s", key, then, value)
