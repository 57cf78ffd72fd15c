"""What Composer 0.32.1 gets wrong with the other locked packages, and nothing else."""

from __future__ import annotations


def fix_wandb() -> None:
    """Composer asks a W&B run for `get_url()`, which wandb has dropped for the property `url`."""
    import wandb

    if not hasattr(wandb.Run, "get_url"):
        wandb.Run.get_url = lambda run: run.url
