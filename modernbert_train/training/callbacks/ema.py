"""An exponential moving average of the weights (Polyak and Juditsky, 1992), kept beside the trained weights."""

from __future__ import annotations

from typing import Any

import torch
from composer import Callback, Logger, State

from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.training.callbacks.base import step_of
from modernbert_train.training.run import Run


def averaging_rate(batch_tokens: int, half_life_tokens: int, num_steps: int) -> float:
    """Return the share of the new weights in the average.

    The contribution of a step halves every `half_life_tokens`. During the first steps the average is the plain mean of
    all weights so far, so that the first ones do not dominate.

    Args:
        batch_tokens: tokens of the step.
        half_life_tokens: tokens after which the contribution of a step has halved.
        num_steps: steps averaged before this one.

    Returns:
        A number from 0 to 1.
    """
    return max(1 - 0.5 ** (batch_tokens / half_life_tokens), 1 / (num_steps + 1))


class WeightAverage(Callback):
    """Keeps the average in float32 on the device of the weights.

    Composer saves it in checkpoints under `callbacks`, with the name of this class as key; `checkpoints.read_average`
    reads it. Training and evaluation do not use it: `modernbert average --ema` makes a checkpoint of it.
    """

    def __init__(self, run: Run, model: ModernBertForMaskedLM) -> None:
        self._schedule = run.schedule
        self._model = model
        self._half_life_tokens = run.recipe.training.ema_half_life_tokens
        self._num_steps = 0
        self._average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def batch_end(self, state: State, logger: Logger) -> None:
        weights = dict(self._model.named_parameters())  # tied weights once
        if not self._average:
            self._average = {
                name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()
            }
        tokens = self._schedule.batch_tokens(step_of(state) - 1)
        rate = averaging_rate(tokens, self._half_life_tokens, self._num_steps)
        torch._foreach_lerp_(
            list(self._average.values()), [weights[name].float() for name in self._average], rate
        )
        self._num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self._num_steps, "weights": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = next(self._model.parameters()).device
        self._num_steps = state["num_steps"]
        self._average = {name: weight.to(device) for name, weight in state["weights"].items()}
