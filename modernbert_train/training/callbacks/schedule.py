"""What the step decides: learning rate, weight decay, RoPE theta, objective, random numbers."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from modernbert_train.config import OptimizerConfig
from modernbert_train.config.skip import format_range
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.optim.optimizer import apply_settings, set_learning_rate
from modernbert_train.schedule import RunSchedule

log = logging.getLogger(__name__)


def step_of(state: State) -> int:
    """Steps finished so far: at the start of a step its index, at its end the next one's."""
    return int(state.timestamp.batch)


class Schedule(Callback):
    """Sets the optimizer, rows of a micro-batch, RoPE theta and causality by the plan, dropout's numbers by the step.

    Before each step, and nothing here is carried from step to step, so nothing can be wrong after a restart.
    """

    def __init__(
        self, plan: RunSchedule, model: ModernBertForMaskedLM, optimizer: OptimizerConfig, seed: int
    ) -> None:
        self._plan = plan
        self._model = model
        self._optimizer = optimizer
        self._seed = seed
        self._thetas: tuple[float, float] | None = None
        self._phase: str | None = None

    def batch_start(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        phase = self._plan.phase_of(step)
        if (
            phase.name != self._phase
        ):  # also the first step after a restart: a checkpoint brings what it was saved with
            settings = replace(self._optimizer, weight_decay=phase.weight_decay)
            for optimizer in state.optimizers:
                apply_settings(optimizer, settings)
            self._phase = phase.name
        for optimizer in state.optimizers:
            set_learning_rate(optimizer, self._plan.learning_rate(step), phase.config.learning_rate)
        state.device_train_microbatch_size = phase.config.micro_batch_tokens // phase.config.row_tokens
        thetas = phase.config.global_rope_theta, phase.config.local_rope_theta
        if thetas != self._thetas:
            self._model.set_rope_theta(*thetas)
            self._thetas = thetas
        self._model.set_causal(phase.objective.causal)
        # A million ranks, and then the next step: no two (seed, step, rank) of real runs share a state.
        torch.manual_seed((self._seed * 10**12 + step * 10**6 + dist.get_global_rank()) % 2**63)


class SkipSteps(Callback):
    """Moves the clock over the steps that the loader has left out, so that every step keeps its number.

    Before all other callbacks, and as soon as a batch is there: what they do follows from the clock.
    """

    def __init__(self, loader: PlannedLoader) -> None:
        self._rows = loader.dataset

    def after_dataloader(self, state: State, logger: Logger) -> None:
        first, step = step_of(state), self._rows.step - 1  # the batch is that of the latter
        if first < step and dist.get_global_rank() == 0:
            log.info("skipped by data.skip.steps: %s", format_range(range(first + 1, step + 1)))
        while step_of(state) < step:
            state.timestamp = state.timestamp.to_next_batch()
