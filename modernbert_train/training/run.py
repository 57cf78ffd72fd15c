"""What all parts of a training run are built from."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from composer.utils import dist

from modernbert_train.config import PhaseConfig, Recipe
from modernbert_train.config.schema import Precision
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.plan import PhaseRows
from modernbert_train.data.sharing import BatchShare, share_batch
from modernbert_train.schedule import RunSchedule


@dataclass(frozen=True)
class Run:
    """A run as this rank sees it: what to do, with which inputs, and on which device."""

    recipe: Recipe
    schedule: RunSchedule
    inputs: Inputs
    # What each phase reads.
    phases: list[PhaseRows]
    device: str  # Composer's name, "gpu" or "cpu"
    precision: Precision  # "auto" resolved
    folder: Path
    # Of a run that goes on, that of its checkpoints. Rank 0 alone uses it, and ranks of a new run have others.
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def is_logged(self, step: int) -> bool:
        """Check whether step number `step`, counted from 1, is logged."""
        return self.schedule.is_logged(step, self.recipe.training.log_every_steps)

    def share(self, phase: PhaseConfig) -> BatchShare:
        """Return what each rank does of the batch of a phase."""
        return share_batch(phase, self.recipe.data.num_streams, dist.get_world_size())
