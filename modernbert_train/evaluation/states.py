"""Mean-pooled hidden states of every layer: of our encoder on packed documents, or of a model of Transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modernbert_train.common.types import Int32
from modernbert_train.evaluation.held_out import batch_of
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.objectives import Row

# Ids of documents, with [CLS] and [SEP] -> the mean over the tokens of each: float32 [layers, documents, hidden], after
# each layer, and last after the final norm.
Pooler = Callable[[Sequence[Int32]], Tensor]

# Tokens of a forward pass, padding included.
_BATCH_TOKENS = 8_192


def our_pooler(encoder: ModernBertForMaskedLM, device: torch.device) -> Pooler:
    """Return the states of our encoder: float32 on the CPU; bf16 on a GPU, as its attention kernels need."""
    model = encoder.model.to(device).eval()

    def pool(documents: Sequence[Int32]) -> Tensor:
        batch = batch_of(_row(documents), max(map(len, documents)), pad_id=0)
        cu_seqlens = batch["cu_seqlens"].to(device)
        found: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out: found.append(_means(out, cu_seqlens)))
            for layer in model.layers
        ]
        try:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                last = model(
                    batch["input_ids"].to(device),
                    batch["position_ids"].to(device),
                    cu_seqlens,
                    batch["max_seqlen"],
                )
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*found, _means(last, cu_seqlens)])

    return pool


def transformers_pooler(model: Any, device: torch.device) -> Pooler:
    """Return the states of a model of Transformers, in float32, on padded documents."""
    encoder: nn.Module = model.base_model.to(device).eval()

    def pool(documents: Sequence[Int32]) -> Tensor:
        longest = max(map(len, documents))
        input_ids, mask = torch.zeros(2, len(documents), longest, dtype=torch.int64)
        for row, ids in enumerate(documents):
            input_ids[row, : len(ids)], mask[row, : len(ids)] = torch.from_numpy(ids).long(), 1
        mask = mask.to(device)
        with torch.no_grad():
            states = encoder(
                input_ids=input_ids.to(device),
                attention_mask=mask,
                output_hidden_states=True,
                return_dict=True,
            ).hidden_states[1:]  # without the embeddings
        weights = (mask / mask.sum(dim=1, keepdim=True)).float()
        return torch.stack([torch.einsum("dth,dt->dh", of_layer.float(), weights) for of_layer in states])

    return pool


def pool_documents(documents: Sequence[Int32], pooler: Pooler) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the states of documents in batches of similar length.

    Args:
        documents: Ids, with [CLS] and [SEP].
        pooler: Of the model.

    Yields:
        The numbers of the documents of a batch, and their states on the CPU [layers, documents of the batch, hidden].
    """
    batch: list[int] = []
    for number in sorted(range(len(documents)), key=lambda number: len(documents[number])):
        if batch and (len(batch) + 1) * len(documents[number]) > _BATCH_TOKENS:
            yield batch, pooler([documents[at] for at in batch]).cpu()
            batch = []
        batch.append(number)
    if batch:
        yield batch, pooler([documents[at] for at in batch]).cpu()


def _row(documents: Sequence[Int32]) -> Row:
    nothing = np.zeros(0, dtype=np.int32)
    lengths = np.array([len(ids) for ids in documents], dtype=np.int32)
    return Row(
        input_ids=np.concatenate(list(documents)),
        segment_tokens=lengths,
        target_positions=nothing,
        labels=nothing,
        num_targets=0,
        num_tokens=int(lengths.sum()),
    )


def _means(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return the mean of the states [T, hidden] of each document: float32 [documents, hidden]."""
    lengths = cu_seqlens.diff()
    document = torch.repeat_interleave(lengths, output_size=len(hidden))
    sums = torch.zeros(len(lengths), hidden.shape[1], device=hidden.device)
    return sums.index_add(0, document, hidden.float()) / lengths[:, None]
