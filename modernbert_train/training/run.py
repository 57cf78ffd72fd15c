"""What all parts of a training run are built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.utils import dist

from modernbert_train.config import PhaseConfig, Recipe
from modernbert_train.config.schema import Precision
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.sharing import BatchShare, share_batch
from modernbert_train.schedule import RunSchedule


@dataclass(frozen=True)
class Run:
    """A run as this rank sees it: what to do, with which inputs, and on which device."""

    recipe: Recipe
    schedule: RunSchedule
    inputs: Inputs
    device: str  # Composer's name, "gpu" or "cpu"
    precision: Precision  # "auto" resolved
    folder: Path

    def is_logged(self, step: int) -> bool:
        """Check whether step number `step`, counted from 1, is logged."""
        return self.schedule.is_logged(step, self.recipe.training.log_every_steps)

    def share(self, phase: PhaseConfig) -> BatchShare:
        """Return what each rank does of the batch of a phase."""
        return share_batch(phase, self.recipe.data.num_streams, dist.get_world_size())
