"""Our encoder with a classifier, on rows joined without padding: equal to Transformers' ModernBERT classes.

    classification, regression   hidden [T, d] -> pooled [N, d] -> head [N, d] -> classifier [N, outputs]
    tokens                       hidden [T, d] -> head [T, d]                  -> classifier [T, outputs]

Pooling takes [CLS] or the mean of all tokens of a row. The head, dense, GELU and norm, is that of masked-language
modelling. The weights have the names of `ModernBertForSequenceClassification` and `ModernBertForTokenClassification`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modernbert_train.checkpoints.hf.config import CONFIG_FILE
from modernbert_train.checkpoints.hf.modernbert import MODEL_TYPE
from modernbert_train.checkpoints.hf.vocabulary import without_padding
from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.checkpoints.source import build_encoder, open_hf_weights
from modernbert_train.finetuning.engine import CLASS_ENDS, cut_by_tokens, draw_classifier, task_config
from modernbert_train.finetuning.examples import Example
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
from modernbert_train.tasks.schema import Pooling, Task


class PackedClassifier(nn.Module):
    """The encoder with a classifier.

    Args:
        encoder: its encoder and head are trained on, its decoder is not used.
        num_outputs: classes, or 1 for a regression.
        pooling: None: an output for each token.
        dropout: before the classifier.
    """

    def __init__(
        self, encoder: ModernBertForMaskedLM, num_outputs: int, pooling: Pooling | None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.head, self.pooling = encoder.model, encoder.head, pooling
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.decoder.in_features, num_outputs)

    def forward(self, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """Return [N, outputs], or [T, outputs] without pooling; arguments as for `ModernBertForMaskedLM`."""
        hidden = self.model(input_ids, position_ids, cu_seqlens, max_seqlen)
        if self.pooling is not None:
            hidden = pool(hidden, cu_seqlens, self.pooling)
        return self.classifier(self.drop(self.head(hidden)))


def pool(hidden: Tensor, cu_seqlens: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each row.

    Args:
        hidden: [T, d].
        cu_seqlens: [N + 1], where the rows start, and T.
        pooling: "cls": the first token. "mean": the mean of all tokens, summed in float32.

    Returns:
        [N, d].
    """
    if pooling == "cls":
        return hidden[cu_seqlens[:-1].long()]
    lengths = cu_seqlens.diff()
    row_of_token = torch.repeat_interleave(lengths, output_size=len(hidden))
    sums = hidden.new_zeros(
        len(lengths), hidden.shape[1], dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    return sums.index_add(0, row_of_token, hidden.to(sums.dtype)) / lengths[:, None]


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Join rows into the input of `PackedClassifier`."""
    lengths = np.array([len(example.input_ids) for example in examples])
    ends = lengths.cumsum()
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return {
        "input_ids": torch.from_numpy(np.concatenate([example.input_ids for example in examples]))
        .long()
        .to(device),
        "position_ids": torch.from_numpy(positions).to(device),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)).to(device),
        "max_seqlen": int(lengths.max()),
    }


class PackedEngine:
    """See the top of this module.

    Args:
        folder: a Hugging Face folder of a ModernBERT, with any head.
        task: what is trained.
        seed: of the classifier, and of a random twin.
        device: where to compute.
        fast_attention: whether flash attention may be used, which computes in bf16.

    Raises:
        ValueError: Our encoder cannot compute the model.
    """

    name = "packed"

    def __init__(
        self, folder: Path, task: Task, seed: int, device: torch.device, fast_attention: bool = True
    ) -> None:
        self._task, self._device = task, device
        self._config = read_json(folder / CONFIG_FILE)
        if self._config["model_type"] != MODEL_TYPE:
            raise ValueError(
                f"{folder}: engine is packed, which computes models of type {MODEL_TYPE}; this is a "
                f"{self._config['model_type']}: set engine=padded"
            )
        source = open_hf_weights(folder)
        info, weights = without_padding(source.info, source.read())
        # A published dropout rate is that of pretraining.
        model = replace(info.model, embedding_dropout=0.0, attn_out_dropout=0.0, mlp_out_dropout=0.0)
        encoder = build_encoder(replace(info, model=model), weights, "auto" if fast_attention else "torch")
        if task.random_twin:
            initialize_weights(encoder, model, torch.Generator().manual_seed(seed))
        num_outputs = max(1, len(task.labels))
        pooling = None if task.kind == "tokens" else task.pooling
        self.model = PackedClassifier(encoder, num_outputs, pooling, task.classifier_dropout)
        draw_classifier(self.model.classifier, self._config, seed)
        self.model.to(device)

    def parts(self, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """See `Engine`."""
        return cut_by_tokens(lengths, max_tokens)

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """See `Engine`."""
        return self.model(**pack(examples, self._device)).float()

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        ours = {
            "architectures": ["ModernBert" + CLASS_ENDS[self._task.kind]],
            "classifier_pooling": self._task.pooling,
            "classifier_dropout": self._task.classifier_dropout,
            # Of a model that was fine-tuned on another kind of task before.
            "problem_type": None,
        }
        config = self._config | ours | task_config(self._task, self.model.classifier.out_features)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {
            name: weight.float().cpu().contiguous() for name, weight in self.model.state_dict().items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        # safetensors creates files that only their owner can read.
        shutil.copymode(folder / CONFIG_FILE, folder / "model.safetensors")
