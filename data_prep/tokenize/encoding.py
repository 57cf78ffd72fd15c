"""Texts -> token ids.

Ids are content only: no [CLS], no [SEP], no truncation. A text that contains "[MASK]" gets the ids of these six
characters, never the special id.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

BATCH_CHARACTERS = 1_000_000  # about a third of a second of work; bounds memory
BATCH_DOCUMENTS = 1_000


class EncodedBatch(NamedTuple):
    """Concatenated token ids of some documents. A document without a token has length 0."""

    ids: np.ndarray  # uint16 or uint32 [sum of lengths]
    lengths: np.ndarray  # uint32 [documents]
    is_valid: np.ndarray  # bool [documents]: whether it belongs to the validation split


def load_tokenizer(tokenizer_json: Path) -> Tokenizer:
    """Load a tokenizer that encodes special strings as plain text and neither truncates nor pads."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def falls_into_valid(text: str, valid_fraction: float) -> bool:
    """Check whether a document is held out. Only the text decides, so equal texts fall into the same split."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < valid_fraction * 2**64


class BatchEncoder:
    """Encodes batches of texts and assigns each text to a split."""

    def __init__(self, tokenizer_json: Path, dtype: str, valid_fraction: float) -> None:
        # One thread per worker process: the number of workers then bounds memory as well.
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
    """Yield batches of about BATCH_CHARACTERS and at most BATCH_DOCUMENTS texts."""
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
