"""Predictions of an exported model for [MASK]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class FilledMask:
    """The likeliest tokens for one [MASK] of a text, likeliest first, with their probabilities."""

    text: str
    candidates: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        words = "   ".join(f"{token!r} {probability:.0%}" for token, probability in self.candidates)
        return f"  {self.text}\n    {words}"


def check_texts(texts: Sequence[str], mask_token: str) -> None:
    """Check that every text has a [MASK].

    Raises:
        ValueError: A text has none.
    """
    for text in texts:
        if mask_token not in text:
            raise ValueError(
                f"--fill: {text!r} has no {mask_token}; write {mask_token} where the model is to predict a token"
            )


def fill_masks(model: Any, tokenizer: Any, texts: Sequence[str], top: int = 3) -> list[FilledMask]:
    """Return the `top` likeliest tokens for every [MASK] of every text.

    Args:
        model: A masked-LM model of Transformers, in eval mode.
        tokenizer: Its tokenizer.
        texts: Texts with [MASK].
        top: Number of tokens for each [MASK].

    Raises:
        ValueError: A text has no [MASK], or is longer than the model's context.
    """
    check_texts(texts, tokenizer.mask_token)
    filled = []
    for text in texts:
        input_ids = torch.tensor([tokenizer(text, verbose=False)["input_ids"]])
        if input_ids.shape[1] > tokenizer.model_max_length:
            raise ValueError(
                f"--fill: a text of {input_ids.shape[1]:,} tokens is longer than the context of "
                f"{tokenizer.model_max_length:,}; shorten {text[:60]!r}..."
            )
        with torch.no_grad():
            logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[0]
        for position in (input_ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist():
            likeliest = logits[position].softmax(-1).topk(top)
            candidates = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            filled.append(
                FilledMask(text, tuple((tokenizer.decode([i]), probability) for i, probability in candidates))
            )
    return filled
