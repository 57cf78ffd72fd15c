"""Two ways to score masked tokens: our encoder on packed rows, Transformers on the same documents padded."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForMaskedLM

from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.data.batch import MicroBatch
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.objectives import IGNORE_INDEX

# Sum of the losses (nats) and number of correct predictions over the targets of a micro-batch.
Scorer = Callable[[MicroBatch], tuple[float, int]]

# Transformers' logits are [tokens, vocabulary] for all tokens of a batch: more of them would take gigabytes.
PADDED_TOKENS = 8_192


def our_scorer(state_dict: dict[str, Tensor], info: CheckpointInfo, device: torch.device) -> Scorer:
    """Score with our encoder: float32 on the CPU; on a GPU bf16, which its attention kernels ask for."""
    model = ModernBertForMaskedLM(info.model, attention_backend="auto" if device.type == "cuda" else "torch")
    model.load_state_dict(state_dict)
    model.set_rope_theta(info.global_rope_theta, info.local_rope_theta)
    model.set_causal(info.is_causal)
    model.eval().to(device)

    def score(batch: MicroBatch) -> tuple[float, int]:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss_sum, num_correct = model.loss_and_correct(
                input_ids=batch["input_ids"].to(device),
                position_ids=batch["position_ids"].to(device),
                cu_seqlens=batch["cu_seqlens"].to(device),
                max_seqlen=batch["max_seqlen"],
                target_positions=batch["target_positions"].to(device),
                labels=batch["labels"].to(device),
            )
        return loss_sum.item(), int(num_correct.item())

    return score


def transformers_scorer(folder: Path, device: torch.device) -> Scorer:
    """Score with the masked-LM model that Transformers loads from a Hugging Face folder, in float32."""
    try:
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    except OSError as error:  # no weights, or none that can be read
        raise ValueError(
            f"{folder}: Transformers cannot open it ({error}); name a folder that `modernbert export` wrote"
        ) from error
    model.eval().to(device)

    def score(batch: MicroBatch) -> tuple[float, int]:
        loss_sum, num_correct = 0.0, 0
        for input_ids, attention_mask, labels in padded_batches(batch):
            with torch.no_grad():
                logits = model(
                    input_ids=input_ids.to(device), attention_mask=attention_mask.to(device)
                ).logits
            masked = labels != IGNORE_INDEX
            predicted, expected = logits[masked.to(device)].float(), labels[masked].to(device)
            loss_sum += F.cross_entropy(predicted, expected, reduction="sum").item()
            num_correct += int((predicted.argmax(-1) == expected).sum().item())
        return loss_sum, num_correct

    return score


def padded_batches(batch: MicroBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The documents of a micro-batch, padded: ids, mask, labels (-100 = none), each [documents, longest].

    Documents without a target, and padding, are left out: they have nothing to score. Documents of like
    length share a batch of at most `PADDED_TOKENS` tokens.
    """
    labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
    real = batch["labels"] != IGNORE_INDEX
    labels[batch["target_positions"][real].long()] = batch["labels"][real]
    bounds = batch["cu_seqlens"].tolist()
    documents = [
        (batch["input_ids"][start:end], labels[start:end])
        for start, end in pairwise(bounds)
        if (labels[start:end] != IGNORE_INDEX).any()
    ]
    documents.sort(key=lambda document: len(document[0]))
    group: list[tuple[Tensor, Tensor]] = []
    for document in documents:
        if group and (len(group) + 1) * len(document[0]) > PADDED_TOKENS:
            yield _pad(group)
            group = []
        group.append(document)
    if group:
        yield _pad(group)


def _pad(documents: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    # What stands in the padding does not matter where the attention mask is 0.
    longest = max(len(ids) for ids, _ in documents)
    input_ids, attention_mask = torch.zeros(2, len(documents), longest, dtype=torch.int64)
    labels = torch.full((len(documents), longest), IGNORE_INDEX)
    for row, (ids, targets) in enumerate(documents):
        input_ids[row, : len(ids)], attention_mask[row, : len(ids)], labels[row, : len(ids)] = ids, 1, targets
    return input_ids, attention_mask, labels
