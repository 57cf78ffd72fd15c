"""Texts -> token ids.

Ids are content alone: no [CLS], no [SEP], nothing truncated. A text that spells "[MASK]" gets the ids of
these six characters, never the special id.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

BATCH_CHARACTERS = 1_000_000  # a third of a second's work: bounds memory
BATCH_DOCUMENTS = 1_000


class EncodedBatch(NamedTuple):
    """Tokens of some documents, joined. A document without a token has length 0."""

    ids: np.ndarray  # uint16 or uint32 [sum of lengths]
    lengths: np.ndarray  # uint32 [documents]
    is_valid: np.ndarray  # bool [documents]: belongs to the validation split


def load_tokenizer(tokenizer_json: Path) -> Tokenizer:
    """The tokenizer as used here: special strings in a text are text, nothing is truncated or padded."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def falls_into_valid(text: str, valid_fraction: float) -> bool:
    """Whether a document is held out: decided by its text alone, so equal texts are never on both sides."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < valid_fraction * 2**64


class BatchEncoder:
    """A tokenizer with what else decides the result."""

    def __init__(self, tokenizer_json: Path, dtype: str, valid_fraction: float) -> None:
        # One thread each: the workers are the parallelism, and bytes in flight stay bounded by their number.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.tokenizer = load_tokenizer(tokenizer_json)
        self.dtype = dtype
        self.valid_fraction = valid_fraction

    def __call__(self, texts: list[str]) -> EncodedBatch:
        """Encode one batch of at least one document."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        arrays = [np.array(encoding.ids, self.dtype) for encoding in encodings]
        return EncodedBatch(
            ids=np.concatenate(arrays),
            lengths=np.array([len(array) for array in arrays], np.uint32),
            is_valid=np.array([falls_into_valid(text, self.valid_fraction) for text in texts], bool),
        )


def batched(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut a stream of texts into batches of about BATCH_CHARACTERS, at most BATCH_DOCUMENTS."""
    batch: list[str] = []
    num_characters = 0
    for text in texts:
        batch.append(text)
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
