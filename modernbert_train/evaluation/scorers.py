"""Two ways to score targets: our encoder on packed rows, Transformers on the same documents, padded."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert_train.checkpoints.hf.transformers_model import load_masked_lm
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.source import build_encoder
from modernbert_train.common.types import Bool, Float64
from modernbert_train.data.batch import MicroBatch
from modernbert_train.objectives import IGNORE_INDEX


class TargetScores(NamedTuple):
    """What a model makes of the targets of a micro-batch, in their order, without the slots that hold none."""

    # Nats [num_targets].
    losses: Float64
    # Whether the most likely token is the right one [num_targets].
    hits: Bool


Scorer = Callable[[MicroBatch], TargetScores]

# Largest padded batch. Transformers computes logits [tokens, vocabulary] for all its tokens, which take gigabytes.
PADDED_TOKENS = 8_192
# Targets whose logits are computed at once by our encoder.
_TARGETS_AT_ONCE = 2_048


def our_scorer(info: CheckpointInfo, weights: dict[str, Tensor], device: torch.device) -> Scorer:
    """Return a scorer by our encoder: float32 on the CPU; bf16 on a GPU, as its attention kernels need."""
    model = build_encoder(info, weights, "auto" if device.type == "cuda" else "torch").to(device)

    def score(batch: MicroBatch) -> TargetScores:
        real = batch["labels"] != IGNORE_INDEX
        positions, labels = batch["target_positions"][real].to(device), batch["labels"][real].to(device)
        parts = []
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.model(
                input_ids=batch["input_ids"].to(device),
                position_ids=batch["position_ids"].to(device),
                cu_seqlens=batch["cu_seqlens"].to(device),
                max_seqlen=batch["max_seqlen"],
            ).index_select(0, positions)
            for states, expected in zip(
                hidden.split(_TARGETS_AT_ONCE), labels.split(_TARGETS_AT_ONCE), strict=True
            ):
                parts.append(_score(model.decoder(model.head(states)), expected))
        return TargetScores(*map(np.concatenate, zip(*parts, strict=True)))

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

    def score(batch: MicroBatch) -> TargetScores:
        expected = batch["labels"][batch["labels"] != IGNORE_INDEX]
        losses, hits = np.empty(len(expected)), np.empty(len(expected), dtype=bool)
        for input_ids, attention_mask, targets in padded_batches(batch):
            with torch.no_grad():
                logits = model(
                    input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), return_dict=True
                ).logits
            inside = targets != IGNORE_INDEX
            numbers = targets[inside]
            found = _score(logits[inside.to(device)], expected[numbers].to(device))
            losses[numbers.numpy()], hits[numbers.numpy()] = found
        return TargetScores(losses, hits)

    return score


def _score(logits: Tensor, expected: Tensor) -> TargetScores:
    # In half precision, the sum over the vocabulary would lose the small terms.
    losses = F.cross_entropy(logits.float(), expected, reduction="none")
    return TargetScores(losses.double().cpu().numpy(), (logits.argmax(-1) == expected).cpu().numpy())


def padded_batches(batch: MicroBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the documents of a micro-batch, padded, in batches of similar length of at most `PADDED_TOKENS` tokens.

    Documents without a target are skipped.

    Yields:
        Ids, attention mask, and for each token its number among the targets of the micro-batch (`IGNORE_INDEX` for one
        that is no target), each [documents, longest].
    """
    targets = torch.full_like(batch["input_ids"], IGNORE_INDEX)
    positions = batch["target_positions"][batch["labels"] != IGNORE_INDEX].long()
    targets[positions] = torch.arange(len(positions))
    bounds = batch["cu_seqlens"].tolist()
    documents = [
        (batch["input_ids"][start:end], targets[start:end])
        for start, end in pairwise(bounds)
        if (targets[start:end] != IGNORE_INDEX).any()
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
    targets = torch.full((len(documents), longest), IGNORE_INDEX)
    for row, (ids, numbers) in enumerate(documents):
        input_ids[row, : len(ids)], attention_mask[row, : len(ids)], targets[row, : len(ids)] = (
            ids,
            1,
            numbers,
        )
    return input_ids, attention_mask, targets
