"""The norm of the gradient, and a stop where the loss is not finite."""

from __future__ import annotations

import math

import torch
from composer import Callback, Logger, State
from torch.nn.utils import clip_grad_norm_, get_total_norm

from modernbert_train.schedule import RunSchedule
from modernbert_train.training.callbacks.schedule import step_of


class GradientNorm(Callback):
    """The norm of the whole gradient, before clipping, where clipping is asked for or a step is logged."""

    def __init__(self, plan: RunSchedule, clip_norm: float | None, log_every_steps: int) -> None:
        self._plan = plan
        self._clip_norm = clip_norm
        self._log_every_steps = log_every_steps
        self.norm: torch.Tensor | None = None

    def after_train_batch(self, state: State, logger: Logger) -> None:
        parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
        if self._clip_norm is not None:
            self.norm = clip_grad_norm_(parameters, self._clip_norm)
        elif self._plan.is_logged(step_of(state) + 1, self._log_every_steps):
            self.norm = get_total_norm([parameter.grad for parameter in parameters])


class StopOnNonFinite(Callback):
    """End the run, on every rank (the loss is summed over them), before a checkpoint of broken weights is written."""

    def batch_end(self, state: State, logger: Logger) -> None:
        assert state.total_loss_dict is not None
        loss = state.total_loss_dict["loss/train/total"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {step_of(state)}; nothing was saved since the last checkpoint. Start again "
                "with a lower learning_rate, a longer warmup_tokens or optimizer.gradient_clip_norm, "
                "or with training.precision=fp32"
            )
