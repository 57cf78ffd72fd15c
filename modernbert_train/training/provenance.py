"""What a run leaves beside its checkpoints so that it can be understood, repeated and exported later."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from modernbert_train.config import Recipe, dump_recipe
from modernbert_train.data.manifest import TokenizerInfo, load_tokenizer_info
from modernbert_train.training.checkpoint import write_atomically

log = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"
PROVENANCE_FILE = "provenance.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
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
    run: Path, recipe: Recipe, tokenizer: TokenizerInfo, world_size: int, resumed: bool
) -> None:
    """Write resolved recipe, provenance and tokenizer into the run folder.

    ValueError if a run that goes on is given another architecture or tokenizer than it began with. Other changes of the
    recipe (a longer phase, another interval) are allowed, and listed in the log.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"run_folder is {run}, which cannot be made ({error.strerror}); name a folder that you may write to"
        ) from error
    if resumed and (run / RECIPE_FILE).exists():
        _check_unchanged(run, recipe, tokenizer)
    write_atomically(run / RECIPE_FILE, dump_recipe(recipe))
    launches = _previous_launches(run)
    launches.append(provenance(world_size))
    write_atomically(run / PROVENANCE_FILE, json.dumps({"launches": launches}, indent=1) + "\n")
    for name in TOKENIZER_FILES:
        if (tokenizer.path / name).exists() and tokenizer.path.resolve() != run.resolve():
            shutil.copyfile(tokenizer.path / name, run / name)


def provenance(world_size: int) -> dict[str, Any]:
    """Code version, package versions and command of this launch."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": sys.argv,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": versions,
        "world_size": world_size,
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" where files differ from it; None outside a git checkout."""
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


def _check_unchanged(run: Path, recipe: Recipe, tokenizer: TokenizerInfo) -> None:
    if load_tokenizer_info(run).fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"data.tokenizer is {recipe.data.tokenizer}: the checkpoints in {run} have another tokenizer; "
            "restore it and the stores made with it, or name another run_folder"
        )
    before = _flat(yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8")))
    now = _flat(yaml.safe_load(dump_recipe(recipe)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    fatal = [key for key in changed if key.startswith("model.")]
    if fatal:
        changes = ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in fatal)
        raise ValueError(
            f"{changes}: the checkpoints in {run} have another architecture; "
            "restore the value, or name another run_folder"
        )
    for key in changed:
        log.warning(
            "recipe changed since the run was begun: %s was %s, is %s", key, before.get(key), now.get(key)
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
