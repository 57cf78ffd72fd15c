"""What the batches contain."""

from __future__ import annotations

from typing import Any

import torch
from composer import Logger, State
from composer.utils import dist

from modernbert_train.data.batch import checksum
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.training.callbacks.base import Metric, step_of
from modernbert_train.training.run import Run


class BatchContents(Metric):
    """A checksum of the global batch, to compare runs, and the tokens read of each source so far."""

    not_scalars = frozenset({"batch_crc32"})

    def __init__(self, run: Run, loader: PlannedLoader) -> None:
        self._run = run
        self._rows = loader.dataset
        self._sources = list(run.inputs.train)
        self._checksum = 0  # of this rank's part of the batch

    def after_dataloader(self, state: State, logger: Logger) -> None:
        if self._run.is_logged(step_of(state) + 1):
            self._checksum = checksum(state.batch)

    def record(self, state: State) -> dict[str, Any]:
        tokens = [self._rows.source_tokens[source] for source in self._sources]
        sums = state.device.tensor_to_device(torch.tensor([self._checksum, *tokens]))
        dist.all_reduce(sums)
        crc, *tokens = sums.tolist()
        return {
            "batch_crc32": crc % 2**32,
            "source_tokens": dict(zip(self._sources, tokens, strict=True)),
        }
