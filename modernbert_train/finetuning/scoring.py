"""Scores of a model on the valid sets of a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from modernbert_train.finetuning.engine import Engine, compute
from modernbert_train.finetuning.examples import Example
from modernbert_train.tasks.metrics import UNSEEN, compute_scores
from modernbert_train.tasks.results import Predictions
from modernbert_train.tasks.schema import Task


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


def predict(engine: Engine, examples: Sequence[Example], task: Task, bf16: bool = False) -> list[Tensor]:
    """Compute the outputs of examples.

    Args:
        engine: the model.
        examples: in any order.
        task: its kind, and the tokens that are computed together.
        bf16: whether the model computes in bfloat16.

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
            logits = compute(engine, rows, bf16).cpu()
        by_row = logits.split([lengths[row] for row in part]) if task.kind == "tokens" else logits.unbind()
        for row, output in zip(part, by_row, strict=True):
            outputs[row] = output
    return outputs


def evaluate(
    engine: Engine, valid: dict[str, list[Example]], task: Task, step: int, loss: float, bf16: bool
) -> Evaluation:
    """Score the valid sets of a task.

    Args:
        engine: the model.
        valid: name -> examples.
        task: the settings.
        step: after which the model is scored.
        loss: mean loss of the steps since the evaluation before.
        bf16: whether the model computes in bfloat16.

    Returns:
        The scores and predictions.

    Raises:
        FloatingPointError: An output is NaN or infinite.
    """
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
