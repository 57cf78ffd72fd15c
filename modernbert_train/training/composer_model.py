"""The masked-language model as Composer sees it, and the loss over a batch that is cut into micro-batches and ranks.

Composer weighs the loss of a micro-batch by its share of the tokens that generate loss, where the whole is counted over
all ranks and micro-batches of the step. With the mean over the targets of each micro-batch as its loss, the
gradient is that of (sum over targets) / (targets of the global batch), however the rows are spread.
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
    """Our encoder under Composer's interface. `batch` is a `MicroBatch`."""

    def __init__(self, model: ModernBertForMaskedLM, precision: Precision, compile: bool) -> None:
        super().__init__()
        self.model = model
        self._precision = precision
        self._loss_sum: LossSum = torch.compile(self._sum_of_losses) if compile else self._sum_of_losses
        self._compile = compile

    def _sum_of_losses(self, **inputs: Any) -> torch.Tensor:
        # The number of correct predictions is for evaluation: compiled, it is not computed here at all.
        return self.model.loss_and_correct(**inputs)[0]

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Sum of the losses over the targets of a micro-batch."""
        if self._compile:
            # The number of documents is the one size that differs from batch to batch.
            torch._dynamo.mark_dynamic(batch["cu_seqlens"], 0)
        with autocast(batch["input_ids"].device, self._precision):
            return self._loss_sum(**model_inputs(batch))

    def loss(self, outputs: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Mean over the targets of the micro-batch; 0 where there are none (rows of padding)."""
        return outputs / max(1, batch["num_targets"])


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """bf16 where it is safe, weights stay float32. Ours and not Composer's, which refuses bf16 on CPUs that have it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def model_inputs(batch: MicroBatch) -> dict[str, Any]:
    """The part of a micro-batch that goes to `ModernBertForMaskedLM.loss_and_correct`."""
    names = ("input_ids", "position_ids", "cu_seqlens", "max_seqlen", "target_positions", "labels")
    return {name: batch[name] for name in names}  # type: ignore[literal-required]


def data_spec(loader: PlannedLoader, pad_id: int) -> DataSpec:
    """The loader with what Composer must know of its batches: a row is a sample, targets generate the loss."""
    return DataSpec(
        dataloader=loader,
        split_batch=lambda batch, rows: micro_batches(batch, rows, pad_id),
        get_num_samples_in_batch=num_rows,
        get_num_tokens_in_batch=num_tokens,
    )


def num_rows(batch: PackedBatch | MicroBatch) -> int:
    """Rows of a batch or micro-batch."""
    return len(batch["input_ids"]) if "num_segments" in batch else batch["num_rows"]


def num_tokens(batch: PackedBatch | MicroBatch) -> dict[str, int]:
    """Tokens of a batch or micro-batch: all but padding, and the targets."""
    total, targets = batch["num_tokens"], batch["num_targets"]
    if isinstance(total, torch.Tensor) and isinstance(targets, torch.Tensor):
        total, targets = int(total.sum()), int(targets.sum())
    return {"total": total, "loss_generating": targets}
