"""Held-out loss during training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from modernbert_train.config import EvaluationConfig
from modernbert_train.config.schema import Precision
from modernbert_train.data.batch import MicroBatch
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.reader import evaluation_batches
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.objectives import build_objective
from modernbert_train.schedule import PhaseSchedule, RunSchedule
from modernbert_train.training.callbacks.schedule import step_of
from modernbert_train.training.composer_model import autocast, model_inputs


class Evaluate(Callback):
    """Held-out loss and accuracy of each source, on the same rows and masks for a context length and objective."""

    def __init__(
        self,
        plan: RunSchedule,
        model: ModernBertForMaskedLM,
        inputs: Inputs,
        config: EvaluationConfig,
        precision: Precision,
    ) -> None:
        self._plan = plan
        self._model = model
        self._inputs = inputs
        self._config = config
        self._precision = precision
        # Number of the phase, source -> its batches.
        self._batches: tuple[int, dict[str, list[MicroBatch]]] | None = None
        self.results: dict[str, dict[str, float]] = {}  # source -> loss, accuracy of the last evaluation
        self.step = -1  # after which it was made

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        if not self._inputs.valid or not self._plan.is_due(step - 1, self._config.every_tokens):
            return
        phase = self._plan.phase_of(step - 1)
        self._model.eval()
        device = next(self._model.parameters()).device
        with torch.no_grad(), autocast(device, self._precision):
            for source, batches in self._of_phase(phase).items():
                self.results[source] = self._evaluate(state, batches)
        self._model.train()
        self.step = step
        for source, result in self.results.items():
            logger.log_metrics({f"eval/{source}/{name}": value for name, value in result.items()})

    def _evaluate(self, state: State, batches: list[MicroBatch]) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, targets
        for batch in batches:
            loss, correct = self._model.loss_and_correct(**model_inputs(state.device.batch_to_device(batch)))
            sums += torch.tensor([float(loss), float(correct), batch["num_targets"]], dtype=torch.float64)
        sums = state.device.tensor_to_device(sums)
        dist.all_reduce(sums)
        loss_sum, num_correct, num_targets = sums.tolist()
        return {"loss": loss_sum / num_targets, "accuracy": num_correct / num_targets}

    def _of_phase(self, phase: PhaseSchedule) -> dict[str, list[MicroBatch]]:
        """Rows are made once for a phase: reading them again would give the same."""
        if self._batches is None or self._batches[0] != phase.index:
            self._batches = (
                phase.index,
                {source: list(self._read(source, phase)) for source in self._inputs.valid},
            )
        return self._batches[1]

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
