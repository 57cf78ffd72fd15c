"""Destinations of the metrics besides the run folder."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import sys
from pathlib import Path

from composer.loggers import LoggerDestination, WandBLogger

from modernbert_train.checkpoints.provenance import git_commit, wandb_id
from modernbert_train.common.text import one_line
from modernbert_train.config import Recipe
from modernbert_train.config.schema import WandbConfig
from modernbert_train.training.distributed.ranks import on_rank_zero

log = logging.getLogger(__name__)


def check_wandb(config: WandbConfig) -> None:
    """Check that W&B has a key, where it cannot ask for one.

    Raises:
        ValueError: It has none, or one of the wrong form.
    """
    if config.project is None or config.mode != "online" or sys.stdin.isatty():
        return
    import wandb

    try:
        has_key, problem = wandb.login(prompt=False, verify=False), "W&B has no API key"
    except wandb.errors.AuthenticationError as error:
        has_key, problem = False, one_line(error)
    if not has_key:
        raise ValueError(
            f"wandb.project is {config.project}: {problem}; set the environment variable WANDB_API_KEY, run `wandb "
            "login` before, or set wandb.mode=offline"
        )


def log_wandb_upload(config: WandbConfig, run: Path) -> None:
    """Log the command that uploads a run without network: every start has written a folder of its own."""
    if config.project is None or config.mode != "offline":
        return
    number = wandb_id(run)
    # With --id, W&B joins the folders in the order of their start; without, each replaces the one before.
    folders = " ".join(
        shlex.quote(str(folder)) for folder in sorted((run / "wandb").glob(f"offline-run-*-{number}"))
    )
    log.info("to upload this run to W&B: wandb sync --id %s --yes %s", number, folders)


def loggers(recipe: Recipe, run: Path) -> list[LoggerDestination]:
    """Return the W&B logger if the recipe names a project and does not disable it."""
    wandb = recipe.wandb
    if wandb.project is None or wandb.mode == "disabled":
        return []
    fix_wandb()
    return [
        WandBLogger(
            project=wandb.project,
            entity=wandb.entity,
            name=f"{recipe.name}-{recipe.phase}" if recipe.phase else recipe.name,
            tags=list(wandb.tags),
            rank_zero_only=True,
            init_kwargs={
                "mode": wandb.mode,
                "dir": str(run),
                "id": on_rank_zero(lambda: wandb_id(run)),
                "resume": "allow",
                "config": dataclasses.asdict(recipe) | {"git_commit": git_commit()},
                # W&B would record the address of the remote, of which it removes the password but not the user, which
                # may be a token as well.
                "settings": {"disable_git": True},
            },
        )
    ]


def fix_wandb() -> None:
    """Restore `Run.get_url()`, which Composer calls and wandb has replaced by the property `url`."""
    import wandb

    if not hasattr(wandb.Run, "get_url"):
        wandb.Run.get_url = lambda run: run.url
