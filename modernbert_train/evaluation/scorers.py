"""Two ways to score targets: our encoder on packed rows, Transformers on the same documents, padded."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert_train.checkpoints.hf.transformers_model import load_masked_lm
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.source import build_encoder
from modernbert_train.data.batch import MicroBatch
from modernbert_train.objectives import IGNORE_INDEX

# Sum of the losses (nats) and number of correct predictions over the targets of a micro-batch.
Scorer = Callable[[MicroBatch], tuple[float, int]]

# Largest padded batch. Transformers computes logits [tokens, vocabulary] for all its tokens, which take gigabytes.
PADDED_TOKENS = 8_192


def our_scorer(info: CheckpointInfo, weights: dict[str, Tensor], device: torch.device) -> Scorer:
    """Return a scorer by our encoder: float32 on the CPU; bf16 on a GPU, as its attention kernels need."""
    model = build_encoder(info, weights, "auto" if device.type == "cuda" else "torch").to(device)

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
    """Return a scorer by the masked-LM model that Transformers loads from a folder, in float32.

    Raises:
        ValueError: Transformers cannot load it, or lacks weights of it, such as those of the masked-LM head.
    """
    model, problems = load_masked_lm(folder)
    if missing := problems["missing_keys"]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"{folder}: lacks {', '.join(missing[:5])}{more} of a masked language model, so its loss would mean "
            "nothing; name a folder with a masked-LM head, or train one with init.from and evaluate the run"
        )
    model.to(device)

    def score(batch: MicroBatch) -> tuple[float, int]:
        loss_sum, num_correct = 0.0, 0
        for input_ids, attention_mask, labels in padded_batches(batch):
            with torch.no_grad():
                logits = model(
                    input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), return_dict=True
                ).logits
            masked = labels != IGNORE_INDEX
            predicted, expected = logits[masked.to(device)].float(), labels[masked].to(device)
            loss_sum += F.cross_entropy(predicted, expected, reduction="sum").item()
            num_correct += int((predicted.argmax(-1) == expected).sum().item())
        return loss_sum, num_correct

    return score


def padded_batches(batch: MicroBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the documents of a micro-batch, padded, in batches of similar length of at most `PADDED_TOKENS` tokens.

    Documents without a target are skipped.

    Yields:
        Ids, attention mask and labels (`IGNORE_INDEX` for no target), each [documents, longest].
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
    # The ids of padding have no effect, as the attention mask is 0 there.
    longest = max(len(ids) for ids, _ in documents)
    input_ids, attention_mask = torch.zeros(2, len(documents), longest, dtype=torch.int64)
    labels = torch.full((len(documents), longest), IGNORE_INDEX)
    for row, (ids, targets) in enumerate(documents):
        input_ids[row, : len(ids)], attention_mask[row, : len(ids)], labels[row, : len(ids)] = ids, 1, targets
    return input_ids, attention_mask, labels
