"""Texts -> token ids.

Ids are content only: no [CLS], no [SEP], no truncation. A text that contains "[MASK]" gets the ids of these six
characters, never the special id.
"""

import os
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from data_prep.inputs.long_text import Text, pieces_of
from data_prep.inputs.readers import LeftOut
from data_prep.inputs.rows import Place, UnreadableDocument
from data_prep.tokenize.long_texts import digest_of, encode_long
from data_prep.tokenize.measuring import TextMeter
from modernbert_train.store.tokenizer import (
    TokenizerError,
    load_tokenizer_info,
    open_tokenizer_json,
    tokenizer_errors,
)

BATCH_CHARACTERS = 1_000_000  # about a third of a second of work; bounds memory
BATCH_DOCUMENTS = 1_000
REMEDY = (
    "let the tokenizer have a token for what its vocabulary lacks (model.unk_token, or model.unk_id of a Unigram, in "
    "tokenizer.json), or leave such documents out with --on-bad-row skip"
)
# Characters of scripts and blocks that hardly any vocabulary has; one of them is missing in all but byte-level ones.
_RARE_CHARACTERS = "ꙮ𓂀ꔀ"


class Batch(NamedTuple):
    """Some documents, and where each of them stands."""

    texts: list[Text]
    places: list[Place]


class EncodedBatch(NamedTuple):
    """Concatenated token ids of some documents. A document without a token has length 0."""

    ids: np.ndarray  # uint16 or uint32 [sum of lengths]
    lengths: np.ndarray  # uint32 [documents]
    is_valid: np.ndarray  # bool [documents]: whether it belongs to the validation split


def load_tokenizer(tokenizer_json: Path) -> Tokenizer:
    """Load a tokenizer that encodes special strings as plain text and neither truncates nor pads."""
    tokenizer = open_tokenizer_json(tokenizer_json)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_unseen_characters(tokenizer_json: Path, skips: bool) -> str | None:
    """Look at what a tokenizer makes of characters that its vocabulary lacks.

    Args:
        tokenizer_json: of the tokenizer.
        skips: whether documents that cannot be encoded are left out.

    Returns:
        A warning if it drops them or raises an error; None otherwise.

    Raises:
        ValueError: It raises an error, and `skips` is False.
    """
    tokenizer = load_tokenizer(tokenizer_json)
    for character in _RARE_CHARACTERS:
        try:
            with tokenizer_errors(f"tokenizer: {tokenizer_json} cannot encode {character!r}"):
                num_tokens = len(tokenizer.encode(character, add_special_tokens=False).ids)
        except TokenizerError as error:
            if not skips:
                raise ValueError(f"{error}; {REMEDY}") from error
            return f"{error}; documents with such characters are left out"
        if num_tokens == 0:
            return (
                f"tokenizer: {tokenizer_json} drops characters that its vocabulary lacks, such as {character!r}, "
                "without a token [UNK]"
            )
    return None


def falls_into_valid(text: Text, valid_fraction: float) -> bool:
    """Check whether a document is held out. Only the text decides, so equal texts fall into the same split."""
    return int.from_bytes(digest_of(text, 8), "big") < valid_fraction * 2**64


class BatchEncoder:
    """Encodes batches of texts and assigns each text to a split."""

    def __init__(self, tokenizer_json: Path, dtype: str, valid_fraction: float) -> None:
        # One thread per worker process: the number of workers then bounds memory as well.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.tokenizer = load_tokenizer(tokenizer_json)
        self.unk_id = load_tokenizer_info(tokenizer_json).unk_id
        self.dtype = dtype
        self.valid_fraction = valid_fraction

    def new_meter(self) -> TextMeter:
        """Return a meter of this tokenizer that has counted nothing."""
        return TextMeter(self.tokenizer, self.unk_id)

    def measure(self, text: str, meter: TextMeter) -> None:
        """Encode a text only to measure what becomes of it."""
        with tokenizer_errors(f"the tokenizer cannot encode {reprlib.repr(text)}"):
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        meter.add([text], _num_bytes(text), np.array(ids, self.dtype))

    def __call__(self, batch: Batch, meter: TextMeter, left_out: LeftOut) -> EncodedBatch:
        """Encode one batch of at least one document.

        Args:
            batch: the documents.
            meter: counts what becomes of the text.
            left_out: counts the documents that cannot be encoded, if they are to be skipped.

        Returns:
            The ids of the documents that could be encoded.

        Raises:
            UnreadableDocument: A document cannot be encoded.
        """
        if _is_long(batch.texts[0]):
            return self._encode_long(batch, meter, left_out)
        texts = [text for text in batch.texts if isinstance(text, str)]
        try:
            with tokenizer_errors(""):
                encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except TokenizerError:
            encodings, texts = self._encode_each(texts, batch.places, left_out)
        arrays = [np.array(encoding.ids, self.dtype) for encoding in encodings]
        encoded = EncodedBatch(
            ids=np.concatenate(arrays) if arrays else np.zeros(0, self.dtype),
            lengths=np.array([len(array) for array in arrays], np.uint32),
            is_valid=np.array([falls_into_valid(text, self.valid_fraction) for text in texts], bool),
        )
        meter.add(texts, sum(map(_num_bytes, texts)), encoded.ids)
        return encoded

    def _encode_each(
        self, texts: list[str], places: list[Place], left_out: LeftOut
    ) -> tuple[list[Encoding], list[str]]:
        """Encode the texts one by one to find those that cannot be encoded; return the others."""
        encodings, encoded = [], []
        for text, place in zip(texts, places, strict=True):
            with self._skipping(place, left_out):
                encodings.append(self.tokenizer.encode(text, add_special_tokens=False))
                encoded.append(text)
        return encodings, encoded

    def _encode_long(self, batch: Batch, meter: TextMeter, left_out: LeftOut) -> EncodedBatch:
        """Encode a single document, whose ids are all that is held of it."""
        (text,), (place,) = batch
        ids, is_encoded = bytearray(), False
        with self._skipping(place, left_out):
            for piece, piece_ids in encode_long(self.tokenizer, pieces_of(text)):
                array = np.array(piece_ids, self.dtype)
                ids += array.data
                meter.add([piece], _num_bytes(piece), array)
            is_encoded = True
        if not is_encoded:
            ids.clear()
        array = np.frombuffer(ids, self.dtype)
        return EncodedBatch(
            ids=array,
            lengths=np.array([len(array)][: int(is_encoded)], np.uint32),
            is_valid=np.array([falls_into_valid(text, self.valid_fraction)][: int(is_encoded)], bool),
        )

    @contextmanager
    def _skipping(self, place: Place, left_out: LeftOut) -> Iterator[None]:
        """Count, or raise with its place, an error of the tokenizer."""
        try:
            with tokenizer_errors("the tokenizer cannot encode this document"):
                yield
        except TokenizerError as error:
            left_out.skip(UnreadableDocument(f"{place}: {error}; {REMEDY}"), "not_encodable")


def _is_long(text: Text) -> bool:
    return not isinstance(text, str) or len(text) > BATCH_CHARACTERS


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def batched(texts: Iterable[Text], left_out: LeftOut) -> Iterator[Batch]:
    """Yield batches of about BATCH_CHARACTERS and at most BATCH_DOCUMENTS texts; a longer text is one of its own.

    Args:
        texts: of documents.
        left_out: knows the place of the text that was read last.

    Yields:
        Batches, in order.
    """
    batch = Batch([], [])
    num_characters = 0
    for text in texts:
        if batch.texts and _is_long(text):
            yield batch
            batch, num_characters = Batch([], []), 0
        batch.texts.append(text)
        batch.places.append(left_out.place)
        num_characters += len(text) if isinstance(text, str) else BATCH_CHARACTERS
        if num_characters >= BATCH_CHARACTERS or len(batch.texts) == BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = Batch([], []), 0
    if batch.texts:
        yield batch
