"""A model of Transformers with a classifier, on padded rows: RoBERTa, DeBERTa, any other architecture."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from modernbert_train.checkpoints.hf.config import CONFIG_FILE
from modernbert_train.checkpoints.hf.transformers_model import quiet
from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.common.text import one_line
from modernbert_train.finetuning.engine import CLASS_ENDS, cut_by_length, draw_classifier, task_config
from modernbert_train.finetuning.examples import Example
from modernbert_train.tasks.schema import Task


class PaddedEngine:
    """Transformers' class for sequence or token classification, with a new classifier.

    Args:
        folder: a Hugging Face folder.
        task: what is trained.
        seed: of the classifier and other new weights, and of a random twin.
        device: where to compute.

    Raises:
        ValueError: Transformers cannot load the model.
    """

    name = "padded"

    def __init__(self, folder: Path, task: Task, seed: int, device: torch.device) -> None:
        self._task, self._device = task, device
        content = read_json(folder / CONFIG_FILE)
        num_outputs = max(1, len(task.labels))
        torch.manual_seed(seed)
        auto_class = getattr(transformers, f"AutoModel{CLASS_ENDS[task.kind]}")
        with quiet():
            try:
                config = transformers.AutoConfig.from_pretrained(folder)
                for name, value in task_config(task, num_outputs).items():
                    setattr(config, name, value)
                for name, value in {
                    "classifier_pooling": task.pooling,
                    "classifier_dropout": task.classifier_dropout,
                }.items():
                    if hasattr(config, name):
                        setattr(config, name, value)
                if task.random_twin:
                    self.model = auto_class.from_config(config, dtype=torch.float32)
                else:
                    self.model = auto_class.from_pretrained(
                        folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
                    )
            except Exception as error:  # whatever may be wrong with files that others wrote
                raise ValueError(
                    f"{folder}: Transformers {transformers.__version__} cannot load it as a model for {task.kind}: "
                    f"{one_line(error):.300}"
                ) from None
        draw_classifier(_classifier(self.model, num_outputs), content, seed)
        self._inputs = inspect.signature(self.model.forward).parameters
        self._pad_id = config.pad_token_id or 0
        self.model.to(device)

    def parts(self, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """See `Engine`; rows of similar length share a part."""
        return cut_by_length(lengths, max_tokens)

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """See `Engine`."""
        inputs = pad(examples, self._pad_id, self._device)
        if "token_type_ids" not in self._inputs:
            inputs.pop("token_type_ids", None)
        logits = self.model(**inputs, return_dict=True).logits.float()
        return logits[inputs["attention_mask"].bool()] if self._task.kind == "tokens" else logits

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        with quiet():
            self.model.save_pretrained(folder)


def pad(
    examples: Sequence[Example], pad_id: int, device: torch.device | str = "cpu", to: int | None = None
) -> dict[str, Any]:
    """Return the input of a model of Transformers: rows padded to the longest, or to `to` tokens."""
    shape = len(examples), to or max(len(example.input_ids) for example in examples)
    input_ids = torch.full(shape, pad_id)
    attention_mask, token_types = torch.zeros(2, *shape, dtype=torch.int64)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.from_numpy(example.input_ids)
        attention_mask[row, :length] = 1
        if example.token_types is not None:
            token_types[row, :length] = torch.from_numpy(example.token_types)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if examples[0].token_types is not None:
        inputs["token_type_ids"] = token_types
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _classifier(model: Any, num_outputs: int) -> nn.Linear:
    """Return the last linear layer outside of the encoder: `classifier`, or `classifier.out_proj` of RoBERTa."""
    encoder = f"{model.base_model_prefix}."
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(encoder)
    ]
    assert layers, f"{type(model).__name__} has no linear layer outside of its encoder"
    assert layers[-1].out_features == num_outputs, (
        f"{type(model).__name__}: its last linear layer is no classifier"
    )
    return layers[-1]
