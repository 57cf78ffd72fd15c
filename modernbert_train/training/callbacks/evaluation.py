"""Evaluation on held-out text during training."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from modernbert_train.common.waiting import waiting
from modernbert_train.data.batch import MicroBatch
from modernbert_train.data.reader import evaluation_batches
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.objectives import build_objective
from modernbert_train.schedule import PhaseSchedule
from modernbert_train.training.callbacks.base import step_of
from modernbert_train.training.composer_model import autocast, model_inputs
from modernbert_train.training.distributed.ranks import is_rank_zero
from modernbert_train.training.run import Run

log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Measures held-out loss and accuracy of each source; None for a source without a target.

    Rows and masks are the same each time for a context length and an objective.
    """

    def __init__(self, run: Run, model: ModernBertForMaskedLM) -> None:
        self._schedule = run.schedule
        self._model = model
        self._inputs = run.inputs
        self._config = run.recipe.evaluation
        self._stall_seconds = run.recipe.data.stall_seconds
        self._precision = run.precision
        self._phase: int | None = None  # index of the phase of `_batches`
        self._batches: dict[str, list[MicroBatch]] = {}  # source -> batches
        # source -> loss and accuracy of the last evaluation; None without a target
        self.results: dict[str, dict[str, float] | None] = {}
        self.step = -1  # number of steps finished before the last evaluation

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        if not self._inputs.valid or not self._schedule.is_due(step - 1, self._config.every_tokens):
            return
        phase = self._schedule.phase_of(step - 1)
        self._model.eval()
        device = next(self._model.parameters()).device
        with torch.no_grad(), autocast(device, self._precision):
            for source, batches in self._phase_batches(phase).items():
                self.results[source] = self._evaluate(state, batches)
        self._model.train()
        self.step = step
        for source, result in self.results.items():
            if result is None:
                _warn_of_no_target(source)
                continue
            logger.log_metrics({f"eval/{source}/{name}": value for name, value in result.items()})

    def _evaluate(self, state: State, batches: list[MicroBatch]) -> dict[str, float] | None:
        sums = torch.zeros(3, dtype=torch.float64)  # loss, correct predictions, targets
        for batch in batches:
            loss, correct = self._model.loss_and_correct(**model_inputs(state.device.batch_to_device(batch)))
            sums += torch.tensor([float(loss), float(correct), batch["num_targets"]], dtype=torch.float64)
        sums = state.device.tensor_to_device(sums)
        dist.all_reduce(sums)
        loss_sum, num_correct, num_targets = sums.tolist()
        if num_targets == 0:
            return None
        return {"loss": loss_sum / num_targets, "accuracy": num_correct / num_targets}

    def _phase_batches(self, phase: PhaseSchedule) -> dict[str, list[MicroBatch]]:
        """Return the batches of a phase, which are read once: reading them again would give the same."""
        if self._phase != phase.index:
            with waiting(lambda: "held-out text", self._stall_seconds, "data.stall_seconds"):
                self._batches = {source: list(self._read(source, phase)) for source in self._inputs.valid}
            self._phase = phase.index
        return self._batches

    def _read(self, source: str, phase: PhaseSchedule) -> Iterator[MicroBatch]:
        return evaluation_batches(
            source,
            self._inputs,
            build_objective(phase.objective.name, self._config),
            context_tokens=phase.config.context_tokens,
            row_tokens=phase.config.row_tokens,
            max_rows=self._config.max_rows,
            rank=dist.get_global_rank(),
            world_size=dist.get_world_size(),
        )


def _warn_of_no_target(source: str) -> None:
    if is_rank_zero():
        log.warning(
            "evaluation: no token of the held-out text of %s can be predicted, so this evaluation leaves it out",
            source,
        )
