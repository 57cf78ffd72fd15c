"""What the two ways to compute a model have in common: our encoder on packed rows, Transformers on padded ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modernbert_train.checkpoints.hf.modernbert import MODEL_TYPE
from modernbert_train.finetuning.examples import Example
from modernbert_train.tasks.schema import Task

# Kind of a task -> end of the name of Transformers' class.
CLASS_ENDS = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
}

# So few tokens are not worth a part of their own.
SMALL_PART_TOKENS = 256


class Engine(Protocol):
    """A model with a classifier, and how it reads rows."""

    name: str

    @property
    def model(self) -> nn.Module:
        """The model; its parameters are all that is trained."""
        ...

    def parts(self, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """Divide rows into parts that are computed one after the other.

        Args:
            lengths: of the rows in tokens.
            max_tokens: of a part, padding included; a longer row is a part of its own.

        Returns:
            The numbers of the rows of each part.
        """
        ...

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """Return [rows, outputs]; for tokens [sum of their lengths, outputs], row after row; float32."""
        ...

    def save(self, folder: Path) -> None:
        """Write config.json and weights into a folder."""
        ...


def compute(engine: Engine, rows: Sequence[Example], bf16: bool) -> Tensor:
    """Return `Engine.logits`, computed in bfloat16 or float32."""
    device = next(engine.model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return engine.logits(rows)


def cut_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut rows, in their order, into parts of at most `max_tokens` tokens; a longer row is a part of its own.

    Returns:
        The numbers of the rows of each part.
    """
    parts: list[list[int]] = []
    tokens = 0
    for row, length in enumerate(lengths):
        if not parts or tokens + length > max_tokens:
            parts.append([])
            tokens = 0
        parts[-1].append(row)
        tokens += length
    return parts


def cut_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut rows into parts of similar length, which are padded to the longest.

    A part has at most `max_tokens` tokens with its padding (a longer row is a part of its own), and at most a quarter
    of padding, or fewer than `SMALL_PART_TOKENS` tokens.

    Returns:
        The numbers of the rows of each part.
    """
    parts: list[list[int]] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if parts:
            padded = lengths[row] * (len(parts[-1]) + 1)
            share = 1 - (tokens + lengths[row]) / padded
        if not parts or padded > max_tokens or (tokens >= SMALL_PART_TOKENS and share > 0.25):
            parts.append([])
            tokens = 0
        parts[-1].append(row)
        tokens += lengths[row]
    return parts


def task_config(task: Task, num_outputs: int) -> dict[str, Any]:
    """Return the fields of config.json that say what the classifier predicts."""
    names = task.labels or [f"LABEL_{number}" for number in range(num_outputs)]
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }
    problem_types = {"classification": "single_label_classification", "regression": "regression"}
    if task.kind in problem_types:
        fields["problem_type"] = problem_types[task.kind]
    return fields


@torch.no_grad()
def draw_classifier(classifier: nn.Linear, config: dict[str, Any], seed: int) -> None:
    """Draw the weights of a new classifier in place; its biases are 0.

    ModernBERT's are those of Transformers: a normal distribution with standard deviation 1 / sqrt(hidden size),
    truncated at `initializer_cutoff_factor` standard deviations. Those of other models have `initializer_range` as
    standard deviation, without truncation.

    Args:
        classifier: [outputs, hidden].
        config: content of config.json.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(classifier.weight.shape)
    if config["model_type"] == MODEL_TYPE:
        std = classifier.in_features**-0.5
        cutoff = (config.get("initializer_cutoff_factor") or 3.0) * std
        nn.init.trunc_normal_(weight, std=std, a=-cutoff, b=cutoff, generator=generator)
    else:
        weight.normal_(std=config.get("initializer_range") or 0.02, generator=generator)
    classifier.weight.copy_(weight)
    if classifier.bias is not None:
        classifier.bias.zero_()
