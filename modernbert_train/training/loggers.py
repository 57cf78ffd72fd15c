"""Destinations of the metrics besides the run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from composer.loggers import LoggerDestination, WandBLogger

from modernbert_train.checkpoints.provenance import wandb_id
from modernbert_train.config import Recipe
from modernbert_train.training.distributed.ranks import on_rank_zero


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
                "config": dataclasses.asdict(recipe),
            },
        )
    ]


def fix_wandb() -> None:
    """Restore `Run.get_url()`, which Composer calls and wandb has replaced by the property `url`."""
    import wandb

    if not hasattr(wandb.Run, "get_url"):
        wandb.Run.get_url = lambda run: run.url
