"""The encoder as a Composer model, and its loss over a batch that is split over ranks and micro-batches.

Composer weights the loss of a micro-batch by its share of the loss-generating tokens of the step, over all ranks. The
loss of a micro-batch is the mean over its targets, so the gradient is that of the mean over the targets of the global
batch, however its rows are split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from composer import ComposerModel, DataSpec

from modernbert_train.config.schema import Precision
from modernbert_train.data.batch import MicroBatch, PackedBatch, micro_batches
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.model import ModernBertForMaskedLM

LossSum = Callable[..., torch.Tensor]


class MaskedLanguageModel(ComposerModel):
    """The encoder with Composer's interface. A `batch` is a `MicroBatch`."""

    def __init__(self, model: ModernBertForMaskedLM, precision: Precision, compile: bool) -> None:
        super().__init__()
        self.model = model
        self._precision = precision
        self._loss_sum: LossSum = torch.compile(self._sum_of_losses) if compile else self._sum_of_losses
        self._compile = compile

    def _sum_of_losses(self, **inputs: Any) -> torch.Tensor:
        # Compiled, the unused number of correct predictions is not computed.
        return self.model.loss_and_correct(**inputs)[0]

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Return the sum of the losses over the targets of a micro-batch."""
        if self._compile:
            # Only the number of documents differs from batch to batch.
            torch._dynamo.mark_dynamic(batch["cu_seqlens"], 0)
        with autocast(batch["input_ids"].device, self._precision):
            return self._loss_sum(**model_inputs(batch))

    def loss(self, outputs: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the mean over the targets of the micro-batch; 0 if it has none (rows of padding)."""
        return outputs / max(1, batch["num_targets"])


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast of the forward pass. Composer's own refuses bf16 on CPUs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def model_inputs(batch: MicroBatch) -> dict[str, Any]:
    """Return the part of a micro-batch that `ModernBertForMaskedLM.loss_and_correct` takes."""
    names = ("input_ids", "position_ids", "cu_seqlens", "max_seqlen", "target_positions", "labels")
    return {name: batch[name] for name in names}  # type: ignore[literal-required]


def data_spec(loader: PlannedLoader, pad_id: int) -> DataSpec:
    """Describe the batches of the loader to Composer: a row is a sample, targets generate the loss."""
    return DataSpec(
        dataloader=loader,
        split_batch=lambda batch, rows: micro_batches(
            batch, rows, pad_id, loader.dataset.most_rows(num_rows(batch))
        ),
        get_num_samples_in_batch=num_rows,
        get_num_tokens_in_batch=num_tokens,
    )


class _Count(int):
    """A number of targets whose share of none at all is 0.

    Composer multiplies the loss of a micro-batch by its targets / those of the global batch, which has none if all its
    tokens are [UNK] or were skipped.
    """

    def __truediv__(self, other: float) -> float:
        return int(self) / other if self else 0.0


def num_rows(batch: PackedBatch | MicroBatch) -> int:
    """Return the number of rows of a batch or micro-batch."""
    return len(batch["input_ids"]) if "num_segments" in batch else batch["num_rows"]


def num_tokens(batch: PackedBatch | MicroBatch) -> dict[str, int]:
    """Return the tokens of a batch or micro-batch, without padding: all of them, and the targets."""
    total, targets = batch["num_tokens"], batch["num_targets"]
    if isinstance(total, torch.Tensor) and isinstance(targets, torch.Tensor):
        total, targets = int(total.sum()), int(targets.sum())
    return {"total": total, "loss_generating": _Count(targets)}
