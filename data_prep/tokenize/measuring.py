"""Measures what the tokenizer makes of the text: [UNK], lost and deleted characters, tokens per character.

Counts of tokens are exact. Lost characters need decoding, so they are counted in excerpts: about one character in
SAMPLED is read twice. Which excerpts are taken follows from the texts and their order alone.
"""

import unicodedata
from collections import Counter
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders

from modernbert_train.store.lost_text import TextCounts
from modernbert_train.store.tokenizer import TokenizerError, tokenizer_errors

SAMPLED = 256
FIRST_CHARACTERS = 10_000  # sampled in any case
EXCERPT_CHARACTERS = 4_096
METASPACE = "▁"  # stands for a space


class TextMeter:
    """Counts what happens to texts.

    Args:
        tokenizer: that encodes them.
        unk_id: of its token for unknown text; None if it has none.
    """

    def __init__(self, tokenizer: Tokenizer, unk_id: int | None) -> None:
        self.tokenizer, self.unk_id = tokenizer, unk_id
        self._characters = self._bytes = self._tokens = self._unknown = 0
        self._sampled = TextCounts()
        self._num_excerpted = 0
        if tokenizer.decoder is None and b'"ByteLevel"' in _state(tokenizer.pre_tokenizer):
            tokenizer.decoder = (
                decoders.ByteLevel()
            )  # its tokens hold every byte, even if no decoder is named

    @property
    def counts(self) -> TextCounts:
        """What was counted so far."""
        return self._sampled + TextCounts(self._characters, self._bytes, self._tokens, self._unknown)

    def add(self, texts: list[str], num_bytes: int, ids: np.ndarray) -> None:
        """Count some texts, or pieces of one.

        Args:
            texts: that were encoded.
            num_bytes: of the texts.
            ids: int [tokens] of all texts.
        """
        self._bytes += num_bytes
        self._tokens += len(ids)
        if self.unk_id is not None:
            self._unknown += int(np.count_nonzero(ids == self.unk_id))
        for text in texts:
            self._characters += len(text)
            if self._num_excerpted <= FIRST_CHARACTERS + self._characters // SAMPLED:
                first = max(0, (len(text) - EXCERPT_CHARACTERS) // 2)
                excerpt = text[first : first + EXCERPT_CHARACTERS]
                self._num_excerpted += len(excerpt)
                self._sampled += self._measure(excerpt)

    def _measure(self, text: str) -> TextCounts:
        try:
            with tokenizer_errors("cannot measure"):
                normalizer = self.tokenizer.normalizer
                normalized = text if normalizer is None else normalizer.normalize_str(text)
                ids = self.tokenizer.encode(text, add_special_tokens=False).ids
                known = [token_id for token_id in ids if token_id != self.unk_id]
                decoded = self.tokenizer.decode(known, skip_special_tokens=False)
        except TokenizerError:
            normalized, decoded = text, ""
        before = _characters(normalized)
        lost = before - _characters(decoded)
        sampled, deleted = _characters(text), Counter[str]()
        if normalized != text:
            sampled = _characters(_folded(text))
            deleted = sampled - _characters(_folded(normalized))
        return TextCounts(
            sampled_characters=sampled.total(),
            deleted_characters=deleted.total(),
            normalized_characters=before.total(),
            lost_characters=lost.total(),
        )


def _state(component: Any) -> bytes:
    """Return the JSON of a component of a tokenizer."""
    return b"" if component is None else component.__getstate__()


def _characters(text: str) -> Counter[str]:
    """Count the characters that are not white space, which many tokenizers do not keep."""
    counts = Counter(text)
    for character in list(counts):
        if character.isspace() or character == METASPACE:
            del counts[character]
    return counts


def _folded(text: str) -> str:
    """Undo what is not a deletion: upper case, compatibility characters, composed accents."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
