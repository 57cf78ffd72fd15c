"""Everything that follows from the number of the step: learning rate, weight decay, RoPE theta, objective, seed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from modernbert_train.config.skip import format_range
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.optim.optimizer import apply_settings, set_learning_rate
from modernbert_train.training.callbacks.base import Metric, step_of
from modernbert_train.training.run import Run

log = logging.getLogger(__name__)


class Schedule(Metric):
    """Sets the optimizer, micro-batch rows, RoPE theta, causality and the seed of dropout before each step.

    It keeps no state that a checkpoint would have to carry, so a restart cannot diverge.
    """

    not_scalars = frozenset({"objective"})

    def __init__(self, run: Run, model: ModernBertForMaskedLM) -> None:
        self._run = run
        self._schedule = run.schedule
        self._model = model
        self._optimizer = run.recipe.optimizer
        self._seed = run.recipe.seed
        self._thetas: tuple[float, float] | None = None
        self._phase: str | None = None

    def batch_start(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        phase = self._schedule.phase_of(step)
        # Also at the first step after a restart: a checkpoint restores the settings that it was saved with.
        if phase.name != self._phase:
            settings = replace(self._optimizer, weight_decay=phase.weight_decay)
            for optimizer in state.optimizers:
                apply_settings(optimizer, settings)
            self._phase = phase.name
        for optimizer in state.optimizers:
            set_learning_rate(optimizer, self._schedule.learning_rate(step), phase.config.learning_rate)
        state.device_train_microbatch_size = self._run.share(phase.config).micro_batch_rows
        thetas = phase.config.global_rope_theta, phase.config.local_rope_theta
        if thetas != self._thetas:
            self._model.set_rope_theta(*thetas)
            self._thetas = thetas
        self._model.set_causal(phase.objective.causal)
        # Distinct for every (seed, step, rank) of a run with less than a million ranks and a million steps.
        torch.manual_seed((self._seed * 10**12 + step * 10**6 + dist.get_global_rank()) % 2**63)

    def record(self, state: State) -> dict[str, Any]:
        step = step_of(state) - 1
        phase = self._schedule.phase_of(step)
        return {
            "lr": self._schedule.learning_rate(step),
            "batch_tokens": self._schedule.batch_tokens(step),
            "context_tokens": phase.config.context_tokens,
            "global_rope_theta": phase.config.global_rope_theta,
            **phase.objective.record(),
        }


class SkipSteps(Callback):
    """Advances Composer's step count past the steps that the loader has skipped, so that every step keeps its number.

    Comes before all other callbacks, which depend on the count.
    """

    def __init__(self, loader: PlannedLoader) -> None:
        self._rows = loader.dataset

    def after_dataloader(self, state: State, logger: Logger) -> None:
        first, step = step_of(state), self._rows.step - 1  # the batch belongs to `step`
        if first < step and dist.get_global_rank() == 0:
            log.info("skipped by data.skip.steps: %s", format_range(range(first + 1, step + 1)))
        while step_of(state) < step:
            state.timestamp = state.timestamp.to_next_batch()
