"""The loop: AdamW over the rows of a task, evaluations between, the best or the last weights at the end.

The same for both engines: the same rows in each step, in the same order, with the same learning rates.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from modernbert_train.common.randomness import permutation
from modernbert_train.config.schema import OptimizerConfig
from modernbert_train.finetuning.engine import Engine, compute
from modernbert_train.finetuning.examples import Example
from modernbert_train.finetuning.scoring import Evaluation, describe, evaluate
from modernbert_train.objectives import IGNORE_INDEX
from modernbert_train.optim.optimizer import build_optimizer, set_learning_rate
from modernbert_train.tasks.schema import Task

log = logging.getLogger(__name__)

# The loss is looked at this often: to do so, the CPU waits for a GPU.
_CHECK_STEPS = 16


@dataclass(frozen=True)
class Outcome:
    """What the loop has found. The engine's model has the weights of `kept`."""

    kept: Evaluation
    evaluations: list[Evaluation]
    # Of every step.
    losses: list[float] = field(repr=False)
    stopped_early: bool = False


def train(
    engine: Engine,
    examples: Sequence[Example],
    valid: dict[str, list[Example]],
    task: Task,
    seed: int,
    bf16: bool = False,
) -> Outcome:
    """Fine-tune an engine's model in place.

    Args:
        engine: with the initial weights.
        examples: to train on.
        valid: name -> examples to score.
        task: the settings.
        seed: of the order of the rows, and of dropout.
        bf16: whether the model computes in bfloat16; weights stay float32.

    Returns:
        The kept evaluation and all others.

    Raises:
        FloatingPointError: A loss or an output is NaN or infinite.
    """
    steps_per_epoch = math.ceil(len(examples) / task.batch_size)
    num_steps = max(1, math.ceil(task.epochs * steps_per_epoch))
    at = evaluation_steps(num_steps, steps_per_epoch, task.evaluate_per_epoch)
    optimizer = build_optimizer(
        engine.model,
        OptimizerConfig(name="adamw", betas=task.betas, eps=task.eps, weight_decay=task.weight_decay),
        task.learning_rate,
    )
    torch.manual_seed(seed)
    losses: list[Tensor] = []
    keeper = _Keeper(engine, task)
    with tqdm(total=num_steps, desc=task.name, unit="step", leave=False, disable=None) as bar:
        for step, batch in enumerate(_batches(examples, task.batch_size, seed, num_steps), start=1):
            set_learning_rate(optimizer, rate_of_step(task, step, num_steps), task.learning_rate)
            losses.append(training_step(engine, batch, task, optimizer, bf16))
            if step % _CHECK_STEPS == 0 or step in at:
                _check_losses(losses, step, task)
                bar.set_postfix(loss=f"{losses[-1].item():.3f}", refresh=False)
            bar.update()
            if step in at:
                loss = torch.stack(losses[keeper.last_step :]).mean().item()
                keeper.add(evaluate(engine, valid, task, step, loss, bf16))
                log.info("%s", describe(keeper.evaluations[-1], task, num_steps))
                if keeper.is_patience_over and step < num_steps:
                    log.info("%s: stops: no better score in %d evaluations", task.name, keeper.num_worse)
                    break
    stopped_early = len(losses) < num_steps
    return Outcome(keeper.kept(), keeper.evaluations, torch.stack(losses).tolist(), stopped_early)


def _batches(
    examples: Sequence[Example], batch_size: int, seed: int, num_steps: int
) -> Iterator[list[Example]]:
    """Yield the rows of each step: every epoch has all of them, in an order of its own."""
    starts = range(0, len(examples), batch_size)
    for epoch in range(math.ceil(num_steps / len(starts))):
        order = permutation(len(examples), "fine-tuning", seed, epoch)
        for start in starts[: num_steps - epoch * len(starts)]:
            yield [examples[row] for row in order[start : start + batch_size]]


class _Keeper:
    """The evaluations of a job, and a copy of the best weights."""

    def __init__(self, engine: Engine, task: Task) -> None:
        self.evaluations: list[Evaluation] = []
        # Evaluations since the best one.
        self.num_worse = 0
        self._engine, self._task = engine, task
        self._best: Evaluation | None = None
        self._weights: dict[str, Tensor] = {}

    @property
    def last_step(self) -> int:
        return self.evaluations[-1].step if self.evaluations else 0

    @property
    def is_patience_over(self) -> bool:
        return self._task.patience is not None and self.num_worse >= self._task.patience

    def add(self, evaluation: Evaluation) -> None:
        """Add the evaluation of the weights as they are; of equal ones, the first is the best."""
        self.evaluations.append(evaluation)
        self.num_worse += 1
        if self._best is None or evaluation.score > self._best.score:
            self._best, self.num_worse = evaluation, 0
            if self._task.keep == "best":
                weights = self._engine.model.state_dict()
                self._weights = {
                    name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()
                }

    def kept(self) -> Evaluation:
        """Return the evaluation that the task keeps, after giving the model its weights."""
        if self._task.keep == "last":
            return self.evaluations[-1]
        assert self._best is not None
        self._engine.model.load_state_dict(self._weights)
        return self._best


def rate_of_step(task: Task, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, from 1: up to the peak during the warmup, then constant or down to 0.

    The first step has a rate above 0 and the step after the last would have 0.
    """
    warmup = round(task.warmup * num_steps)
    if step <= warmup:
        return task.learning_rate * step / warmup
    if task.schedule == "constant":
        return task.learning_rate
    return task.learning_rate * (num_steps - step + 1) / (num_steps - warmup)


def evaluation_steps(num_steps: int, steps_per_epoch: int, per_epoch: int) -> set[int]:
    """Return the steps after which the model is evaluated: evenly spaced in each epoch, and the last."""
    count = math.ceil(num_steps / steps_per_epoch) * per_epoch
    steps = {round(number * steps_per_epoch / per_epoch) for number in range(1, count + 1)}
    return {step for step in steps if 1 <= step <= num_steps} | {num_steps}


def training_step(
    engine: Engine, batch: Sequence[Example], task: Task, optimizer: torch.optim.Optimizer, bf16: bool
) -> Tensor:
    """Update the weights once.

    Args:
        engine: the model.
        batch: the rows.
        task: the settings.
        optimizer: with the learning rate of the step.
        bf16: see `train`.

    Returns:
        The mean loss over the rows (tokens: over the words), before the update.
    """
    engine.model.train()
    targets = _num_targets(batch, task)
    total = torch.zeros(())
    for part in engine.parts([len(example.input_ids) for example in batch], task.micro_batch_tokens):
        rows = [batch[row] for row in part]
        loss = loss_sum(compute(engine, rows, bf16), rows, task) / targets
        loss.backward()
        total = total.to(loss.device) + loss.detach()
    if task.gradient_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(engine.model.parameters(), task.gradient_clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _num_targets(batch: Sequence[Example], task: Task) -> int:
    if task.kind != "tokens":
        return len(batch)
    return max(1, int(sum(np.count_nonzero(example.label != np.int64(IGNORE_INDEX)) for example in batch)))


def loss_sum(logits: Tensor, rows: Sequence[Example], task: Task) -> Tensor:
    """Return the sum of the losses of rows: cross-entropy of classes, squared error of a regression.

    Args:
        logits: as `Engine.logits` returns them for these rows.
        rows: with their labels.
        task: its kind.

    Returns:
        A scalar, whose gradient is 0 for words without a label.
    """
    if task.kind == "regression":
        targets = torch.tensor([row.label for row in rows], dtype=logits.dtype, device=logits.device)
        return F.mse_loss(logits[:, 0], targets, reduction="sum")
    labels: Any = [row.label for row in rows]
    classes = torch.from_numpy(np.concatenate(labels)) if task.kind == "tokens" else torch.tensor(labels)
    return F.cross_entropy(logits, classes.to(logits.device), ignore_index=IGNORE_INDEX, reduction="sum")


def _check_losses(losses: Sequence[Tensor], step: int, task: Task) -> None:
    recent = torch.stack(list(losses[-_CHECK_STEPS:]))
    if torch.isfinite(recent).all():
        return
    first = step - len(recent) + 1 + int((~torch.isfinite(recent)).nonzero()[0].item())
    raise FloatingPointError(
        f"{task.name}: the loss of step {first} is {recent[first - step - 1].item()}; lower learning_rate "
        f"({task.learning_rate:g}), or set gradient_clip_norm=1.0; if it is the first step, look at the weights"
    )
