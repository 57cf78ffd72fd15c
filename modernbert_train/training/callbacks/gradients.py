"""The norm of the gradient, its clipping, and the end of a run whose loss is not finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from composer import Callback, Logger, State
from torch.nn.utils import clip_grad_norm_, get_total_norm

from modernbert_train.checkpoints.rewind import describe_way_back
from modernbert_train.training.callbacks.base import Metric, step_of
from modernbert_train.training.run import Run


class GradientNorm(Metric):
    """Clips the gradient if the recipe asks for it, and measures its norm before clipping."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._clip_norm = run.recipe.optimizer.gradient_clip_norm
        self._norm: torch.Tensor | None = None

    def after_train_batch(self, state: State, logger: Logger) -> None:
        parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
        if self._clip_norm is not None:
            self._norm = clip_grad_norm_(parameters, self._clip_norm)
        elif self._run.is_logged(step_of(state) + 1):
            self._norm = get_total_norm([parameter.grad for parameter in parameters])

    def record(self, state: State) -> dict[str, Any]:
        return {"grad_norm": None if self._norm is None else float(self._norm)}


class StopOnNonFinite(Callback):
    """Ends the run on every rank (the loss is their sum) before a checkpoint of broken weights is written."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def batch_end(self, state: State, logger: Logger) -> None:
        assert state.total_loss_dict is not None
        loss = state.total_loss_dict["loss/train/total"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {step_of(state)}; nothing was saved since the last checkpoint. Start again "
                "with a lower learning_rate, a longer warmup_tokens or optimizer.gradient_clip_norm"
                f"{'' if self._run.precision == 'fp32' else ', or with training.precision=fp32'}. "
                f"{describe_way_back(self._run.folder)}"
            )
