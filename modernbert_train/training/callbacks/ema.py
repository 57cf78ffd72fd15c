"""The exponential moving average of the weights (Polyak and Juditsky, 1992), kept beside those that are trained."""

from __future__ import annotations

from typing import Any

import torch
from composer import Callback, Logger, State

from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.schedule import RunSchedule
from modernbert_train.training.callbacks.schedule import step_of


def averaging_rate(batch_tokens: int, half_life_tokens: int, num_steps: int) -> float:
    """By how much the average moves to the weights of a step of `batch_tokens` tokens, `num_steps` steps after its
    start.

    What a step contributes halves every `half_life_tokens`. While there are fewer steps than that takes in, the
    average is the plain mean of them all, so that the first weights do not linger.
    """
    return max(1 - 0.5 ** (batch_tokens / half_life_tokens), 1 / (num_steps + 1))


class WeightAverage(Callback):
    """Keeps the average, in float32 on the device of the weights; checkpoints carry it, under `callbacks`.

    Nothing that is trained or measured reads it: `modernbert average --ema` makes a checkpoint of it.
    """

    def __init__(self, plan: RunSchedule, model: ModernBertForMaskedLM, half_life_tokens: int) -> None:
        self._plan = plan
        self._model = model
        self._half_life_tokens = half_life_tokens
        self._num_steps = 0
        self._average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def batch_end(self, state: State, logger: Logger) -> None:
        weights = dict(self._model.named_parameters())  # the tied one comes once
        if not self._average:
            self._average = {
                name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()
            }
        tokens = self._plan.batch_tokens(step_of(state) - 1)
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
