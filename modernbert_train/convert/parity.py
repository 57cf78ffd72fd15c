"""Do Transformers and our encoder compute the same logits from the same weights?

Both run on the CPU in float32: Transformers on padded batches with its own attention, ours on the same documents packed
without padding. The documents cover the cases in which exports have been wrong: a text as the tokenizer gives it, a
padded batch with lengths down to empty documents, one longer than the local window, one as long as the context.
"""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.common.text import one_line
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.model.encoder import ModernBertModel
from modernbert_train.store.published_tokenizer import PROBE_TEXTS, training_ids
from modernbert_train.store.tokenizer import TokenizerInfo

# Relative to the largest logit, or to 1 if all are smaller. In float32, rounding causes 1e-6 with fresh weights and up
# to 2e-5 where attention is sharp, as much as between Transformers' own two attentions. A wrong theta or window causes
# more.
MAX_DIFFERENCE = 1e-4
LONGEST_PROBE_TOKENS = 1_024


@dataclass(frozen=True)
class ProbeResult:
    """The difference of the logits, or of other values of two models, on one batch of documents."""

    name: str
    document_tokens: tuple[int, ...]
    max_difference: float
    # Largest absolute value.
    max_logit: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is small enough; False for NaN, which compares false with everything."""
        return self.max_difference <= MAX_DIFFERENCE * max(1.0, self.max_logit)

    def __str__(self) -> str:
        lengths = ", ".join(f"{length:,}" for length in self.document_tokens)
        return (
            f"  {self.name:<24} {lengths + ' tokens':<24} "
            f"max |difference| {self.max_difference:.1e}   (values up to {self.max_logit:.1f})"
        )


def probe_batches(
    tokenizer: TokenizerInfo, context_tokens: int, local_attention: int
) -> dict[str, list[list[int]]]:
    """Return batches of documents with their [CLS] and [SEP], none longer than the context; deterministic.

    Args:
        tokenizer: Its ordinary ids and [MASK] are drawn.
        context_tokens: The longest document.
        local_attention: The full width of the window.
    """
    drawable = [*sorted(set(range(tokenizer.num_ids)) - set(tokenizer.special_ids)), tokenizer.mask_id]
    generator = random.Random(0)

    def document(num_tokens: int) -> list[int]:
        content = generator.choices(drawable, k=max(0, min(num_tokens, context_tokens) - 2))
        return [tokenizer.cls_id, *content, tokenizer.sep_id]

    text = next(filter(None, (training_ids(tokenizer, text) for text in PROBE_TEXTS)), [])
    return {
        "a text": [[tokenizer.cls_id, *text[: context_tokens - 2], tokenizer.sep_id]],
        "a padded batch": [document(num_tokens) for num_tokens in (2, 3, 17, 40)],
        "longer than the window": [document(local_attention + 3)],
        "as long as the context": [document(min(context_tokens, LONGEST_PROBE_TOKENS))],
    }


def compare_logits(
    ours: ModernBertForMaskedLM | ModernBertModel, theirs: Any, batches: dict[str, list[list[int]]]
) -> list[ProbeResult]:
    """Compare the logits of two models, both in eval mode.

    Args:
        ours: Our encoder, with its head or without, in which case hidden states take the place of logits.
        theirs: Transformers' model.
        batches: Name -> token ids of each document.

    Returns:
        The largest difference for each batch.

    Raises:
        FailedCheck: A logit is NaN, or a difference is above `MAX_DIFFERENCE`.
    """
    results = []
    for name, documents in batches.items():
        with torch.no_grad():
            expected, actual = _packed_logits(ours, documents), _padded_logits(theirs, documents)
        result = ProbeResult(
            name=name,
            document_tokens=tuple(map(len, documents)),
            max_difference=(expected - actual).abs().max().item(),
            max_logit=expected.abs().max().item(),
        )
        if not result.agrees:
            raise FailedCheck(
                f"Transformers' logits differ from ours by {result.max_difference:.1e} on {name} "
                f"({result.document_tokens} tokens, logits up to {result.max_logit:.1f}); "
                f"the limit is {MAX_DIFFERENCE:.0e} of the largest logit"
            )
        results.append(result)
    return results


def _packed_logits(model: ModernBertForMaskedLM | ModernBertModel, documents: list[list[int]]) -> Tensor:
    """Return the logits [sum of lengths, vocab] of the documents, joined without padding."""
    lengths = torch.tensor([len(document) for document in documents])
    logits: Tensor = model(
        input_ids=torch.tensor([token for document in documents for token in document]),
        position_ids=torch.cat([torch.arange(len(document)) for document in documents]),
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(torch.int32),
        max_seqlen=int(lengths.max()),
    )
    return logits


def _padded_logits(model: Any, documents: list[list[int]]) -> Tensor:
    """Return the logits [sum of lengths, vocab] of the documents, padded to the longest."""
    longest = max(map(len, documents))
    padded = torch.full((len(documents), longest), model.config.pad_token_id or 0)
    mask = torch.zeros(len(documents), longest, dtype=torch.int64)
    for row, document in enumerate(documents):
        padded[row, : len(document)] = torch.tensor(document)
        mask[row, : len(document)] = 1
    try:
        output = model(input_ids=padded, attention_mask=mask, return_dict=True)
    except Exception as error:  # by settings of config.json that our encoder does not have
        raise FailedCheck(
            f"Transformers loads the model, but cannot run it: {one_line(error):.300}"
        ) from error
    return output.logits[mask.bool()]
