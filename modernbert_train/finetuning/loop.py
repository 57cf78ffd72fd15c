"""The loop: AdamW over the rows of a task, evaluations between, the best or the last weights at the end.

The same for both engines: the same rows in each step, in the same order, with the same learning rates.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from modernbert_train.common.randomness import permutation
from modernbert_train.config.schema import OptimizerConfig
from modernbert_train.finetuning.engine import Engine
from modernbert_train.finetuning.examples import Example
from modernbert_train.objectives import IGNORE_INDEX
from modernbert_train.optim.optimizer import build_optimizer, set_learning_rate
from modernbert_train.tasks.metrics import UNSEEN, compute_scores
from modernbert_train.tasks.results import Predictions
from modernbert_train.tasks.schema import Task

log = logging.getLogger(__name__)

# The loss is looked at this often: to do so, the CPU waits for a GPU.
_CHECK_STEPS = 16


@dataclass(frozen=True)
class Evaluation:
    """The scores after a step."""

    step: int
    # Mean loss of the steps since the evaluation before.
    train_loss: float
    # Score -> valid set -> value.
    scores: dict[str, dict[str, float]]
    # The main score: the mean over the valid sets.
    score: float
    predictions: Predictions = field(repr=False)


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
    found: list[Evaluation] = []
    best, best_weights, num_worse, stopped = -math.inf, None, 0, False
    order = np.empty(0, dtype=np.int64)
    bar = tqdm(total=num_steps, desc=task.name, unit="step", leave=False, disable=None)
    with bar:
        for step in range(1, num_steps + 1):
            place = (step - 1) % steps_per_epoch
            if place == 0:
                order = permutation(len(examples), "fine-tuning", seed, (step - 1) // steps_per_epoch)
            batch = [examples[row] for row in order[place * task.batch_size : (place + 1) * task.batch_size]]
            set_learning_rate(optimizer, rate_of_step(task, step, num_steps), task.learning_rate)
            losses.append(training_step(engine, batch, task, optimizer, bf16))
            if step % _CHECK_STEPS == 0 or step in at or step == num_steps:
                _check_losses(losses, step, task)
                bar.set_postfix(loss=f"{losses[-1].item():.3f}", refresh=False)
            bar.update()
            if step not in at:
                continue
            since = found[-1].step if found else 0
            found.append(
                _evaluate(engine, valid, task, step, torch.stack(losses[since:]).mean().item(), bf16)
            )
            log.info("%s", describe(found[-1], task, num_steps))
            if found[-1].score > best:
                best, num_worse = found[-1].score, 0
                if task.keep == "best" and step < num_steps:
                    best_weights = {
                        name: w.detach().cpu().clone() for name, w in engine.model.state_dict().items()
                    }
            else:
                num_worse += 1
            if task.patience is not None and num_worse >= task.patience and step < num_steps:
                stopped = True
                log.info("%s: stops: no better score in %d evaluations", task.name, num_worse)
                break
    kept = found[-1]
    if task.keep == "best":
        kept = max(found, key=lambda evaluation: (evaluation.score, -evaluation.step))
        if kept is not found[-1]:
            assert best_weights is not None
            engine.model.load_state_dict(best_weights)
    return Outcome(kept, found, torch.stack(losses).tolist(), stopped)


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
        loss = loss_sum(_logits(engine, rows, bf16), rows, task) / targets
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


def _logits(engine: Engine, rows: Sequence[Example], bf16: bool) -> Tensor:
    device = next(engine.model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return engine.logits(rows)


def _check_losses(losses: Sequence[Tensor], step: int, task: Task) -> None:
    recent = torch.stack(list(losses[-_CHECK_STEPS:]))
    if torch.isfinite(recent).all():
        return
    first = step - len(recent) + 1 + int((~torch.isfinite(recent)).nonzero()[0].item())
    raise FloatingPointError(
        f"{task.name}: the loss of step {first} is {recent[first - step - 1].item()}; lower learning_rate "
        f"({task.learning_rate:g}), or set gradient_clip_norm=1.0; if it is the first step, look at the weights"
    )


def predict(engine: Engine, examples: Sequence[Example], task: Task, bf16: bool = False) -> list[Tensor]:
    """Compute the outputs of examples.

    Args:
        engine: the model.
        examples: in any order.
        task: its kind, and the tokens that are computed together.
        bf16: see `train`.

    Returns:
        For each example [outputs], or for tokens [length, outputs]; float32, on the CPU.
    """
    engine.model.eval()
    lengths = [len(example.input_ids) for example in examples]
    outputs: list[Tensor] = [torch.empty(0)] * len(examples)
    parts = engine.parts(lengths, task.micro_batch_tokens)
    for part in tqdm(parts, desc="evaluation", unit="part", leave=False, disable=None):
        rows = [examples[row] for row in part]
        with torch.no_grad():
            logits = _logits(engine, rows, bf16).cpu()
        by_row = logits.split([lengths[row] for row in part]) if task.kind == "tokens" else logits.unbind()
        for row, output in zip(part, by_row, strict=True):
            outputs[row] = output
    return outputs


def _evaluate(
    engine: Engine, valid: dict[str, list[Example]], task: Task, step: int, loss: float, bf16: bool
) -> Evaluation:
    predictions: Predictions = {}
    scores: dict[str, dict[str, float]] = {}
    for name, examples in valid.items():
        outputs = predict(engine, examples, task, bf16)
        if not all(torch.isfinite(output).all() for output in outputs):
            raise FloatingPointError(
                f"{task.name}: after step {step}, the model gives NaN or infinity for {name}; lower learning_rate "
                f"({task.learning_rate:g}), or set gradient_clip_norm=1.0"
            )
        arrays = _predictions(outputs, examples, task)
        found = compute_scores(
            task.kind, arrays["predictions"], arrays["labels"], task.labels, arrays.get("rows")
        )
        for score, value in found.items():
            scores.setdefault(score, {})[name] = value
        predictions |= {f"{name}.{key}": array for key, array in arrays.items()}
    main = scores[task.metric].values()
    return Evaluation(step, loss, scores, math.fsum(main) / len(main), predictions)


def _predictions(outputs: Sequence[Tensor], examples: Sequence[Example], task: Task) -> Predictions:
    if task.kind == "regression":
        return {
            "predictions": torch.stack(list(outputs))[:, 0].numpy(),
            "labels": np.array([example.label for example in examples], dtype=np.float64),
        }
    if task.kind == "classification":
        return {
            "predictions": torch.stack(list(outputs)).argmax(-1).numpy(),
            "labels": np.array([example.label for example in examples], dtype=np.int64),
        }
    predicted, labels, rows = [], [], []
    for row, (output, example) in enumerate(zip(outputs, examples, strict=True)):
        tokens, classes = example.word_tokens, output.argmax(-1).numpy()
        assert tokens is not None
        assert example.word_labels is not None
        predicted.append(np.where(tokens == UNSEEN, UNSEEN, classes[tokens]))
        labels.append(example.word_labels)
        rows.append(np.full(len(tokens), row))
    parts = {"predictions": predicted, "labels": labels, "rows": rows}
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def describe(evaluation: Evaluation, task: Task, num_steps: int) -> str:
    """Return an evaluation in a line."""
    scores = ", ".join(
        f"{score.replace('_', ' ')} {' / '.join(f'{100 * value:.1f}' for value in sets.values())}"
        for score, sets in evaluation.scores.items()
    )
    return (
        f"{task.name}: step {evaluation.step:,} of {num_steps:,}: loss {evaluation.train_loss:.3f}, {scores}"
    )
