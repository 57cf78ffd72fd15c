from pathlib import Path

import pytest
import torch

from tests.helpers.exported import TINY, random_weights, write_checkpoint_of


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return random_weights(TINY)


@pytest.fixture
def run(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A run folder whose one checkpoint is of a phase with a context of 64 tokens and theta 10,000."""
    write_checkpoint_of(tmp_path / "run", weights)
    return tmp_path / "run"
