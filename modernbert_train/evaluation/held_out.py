"""The text that models are scored on: that of the stores of a recipe, or raw text, tokenized by each model itself.

The masks depend on the source and the row alone, so models with one tokenizer and one context predict the same tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from data_prep.inputs.files import resolve_inputs
from data_prep.inputs.long_text import pieces_of
from data_prep.inputs.readers import read_texts
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Span
from modernbert_train.common.types import Int32, Int64
from modernbert_train.config import Recipe
from modernbert_train.config.schema import EvaluationConfig, MaskingConfig
from modernbert_train.data.batch import MicroBatch, collate, micro_batches
from modernbert_train.data.inputs import Inputs, open_inputs
from modernbert_train.data.packing import cut_into_pieces, pack
from modernbert_train.data.plan import SPECIALS_PER_PIECE
from modernbert_train.data.reader import evaluation_rows
from modernbert_train.evaluation.unigram import count_tokens
from modernbert_train.objectives import Masking, PlainRow, Row, build_objective
from modernbert_train.store.manifest import TokenizerInfo
from modernbert_train.store.names import is_source_name
from modernbert_train.store.tokenizer import open_tokenizer_json, tokenizer_errors

log = logging.getLogger(__name__)

# Slots of a row of raw text, unless a document is longer.
_ROW_TOKENS = 8_192


class HeldOutRow(NamedTuple):
    """A row of documents, and the number of the document of each of its pieces, which come before the padding."""

    batch: MicroBatch
    documents: Int64


class TokenizedText(Protocol):
    """Text in the ids of one tokenizer."""

    @property
    def sources(self) -> Sequence[str]:
        """The names of the sources that have text."""

    def rows(self, source: str, objective: str, context_tokens: int) -> Iterator[HeldOutRow]:
        """Yield rows with targets, of pieces of at most `context_tokens` tokens."""

    def count(self, source: str, num_ids: int, progress_bar: bool) -> Int64:
        """Count each id in the text from which the unigram baseline knows how frequent tokens are [num_ids]."""


class HeldOutText(Protocol):
    """Text that can be read in the ids of any tokenizer that fits it."""

    def read(self, tokenizer: TokenizerInfo, progress_bar: bool) -> TokenizedText:
        """Return the text in the ids of a tokenizer; opened once for each tokenizer."""

    def close(self) -> None:
        """Close what was opened."""


class StoreText:
    """The held-out text of the stores of a recipe, which must have been made with the models' tokenizer.

    Args:
        recipe: Determines the text, its amount and the mask rate.
        max_tokens: Most tokens of a source; None: as many as `evaluation.max_rows` rows of the last phase hold.
    """

    def __init__(self, recipe: Recipe, max_tokens: int | None = None) -> None:
        self.recipe = recipe
        self._max_tokens = max_tokens
        self._opened: dict[str, _TokensOfStores] = {}

    @property
    def context_tokens(self) -> int:
        """The context length of the last phase."""
        return list(self.recipe.phases.values())[-1].context_tokens

    def read(self, tokenizer: TokenizerInfo, progress_bar: bool) -> TokenizedText:
        if tokenizer.fingerprint not in self._opened:
            # The text must have been tokenized with the model's own tokenizer, whichever copy of it the recipe names.
            data = dataclasses.replace(self.recipe.data, tokenizer=str(tokenizer.path))
            inputs = open_inputs(dataclasses.replace(self.recipe, data=data))
            for name in inputs.train.keys() - inputs.valid.keys():
                log.warning("%s has no held-out text in its store and is skipped", name)
            self._opened[tokenizer.fingerprint] = _TokensOfStores(self.recipe, inputs, self._max_tokens)
        return self._opened[tokenizer.fingerprint]

    def close(self) -> None:
        for opened in self._opened.values():
            opened.inputs.reader.close()


class _TokensOfStores:
    def __init__(self, recipe: Recipe, inputs: Inputs, max_tokens: int | None) -> None:
        self.inputs = inputs
        self.sources = list(inputs.valid)
        self._evaluation = recipe.evaluation
        self._row_tokens = list(recipe.phases.values())[-1].row_tokens
        self._max_tokens = max_tokens or recipe.evaluation.max_rows * self._row_tokens
        self._counts: dict[str, Int64] = {}

    def rows(self, source: str, objective: str, context_tokens: int) -> Iterator[HeldOutRow]:
        """Yield rows as in the last phase, so that all checkpoints of a run and its exports have the same targets."""
        row_tokens = max(self._row_tokens, context_tokens)
        rows = evaluation_rows(
            source,
            self.inputs,
            build_objective(objective, self._evaluation),
            context_tokens=context_tokens,
            row_tokens=row_tokens,
            max_rows=-(-self._max_tokens // row_tokens),
        )
        return itertools.starmap(HeldOutRow, rows)

    def count(self, source: str, num_ids: int, progress_bar: bool) -> Int64:
        """Count the ids of the training text."""
        if source not in self._counts:
            split = self.inputs.train[source]
            self._counts[source] = count_tokens(source, split, self.inputs.reader, num_ids, progress_bar)
        return self._counts[source].copy()


class RawText:
    """Text of files, which every model reads with its own tokenizer.

    Args:
        texts: Source -> its documents.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.texts = texts
        self._opened: dict[str, _TokensOfTexts] = {}

    def read(self, tokenizer: TokenizerInfo, progress_bar: bool) -> TokenizedText:
        if tokenizer.fingerprint not in self._opened:
            encoder = load_encoder(tokenizer)
            documents = {
                source: _encode(source, texts, encoder, progress_bar) for source, texts in self.texts.items()
            }
            self._opened[tokenizer.fingerprint] = _TokensOfTexts(documents, tokenizer)
        return self._opened[tokenizer.fingerprint]

    def close(self) -> None:
        self._opened.clear()


class _TokensOfTexts:
    def __init__(self, documents: dict[str, list[Int32]], tokenizer: TokenizerInfo) -> None:
        self.sources = list(documents)
        self._documents = documents
        self._tokenizer = tokenizer
        defaults = MaskingConfig()
        self._masking = Masking.of(tokenizer, defaults.mask_fraction, defaults.random_fraction)

    def rows(self, source: str, objective: str, context_tokens: int) -> Iterator[HeldOutRow]:
        documents = self._documents[source]
        lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
        document, start, count = cut_into_pieces(lengths, context_tokens - SPECIALS_PER_PIECE)
        sizes = count + SPECIALS_PER_PIECE
        if not len(sizes):
            return
        row_of_piece = pack(sizes, max(_ROW_TOKENS, int(sizes.max())))
        for number in range(int(row_of_piece.max()) + 1):
            pieces = np.flatnonzero(row_of_piece == number)
            ids = [
                with_specials(documents[document[piece]][start[piece] :][: count[piece]], self._tokenizer)
                for piece in pieces.tolist()
            ]
            plain = PlainRow(np.concatenate(ids), sizes[pieces].astype(np.int32), int(sizes[pieces].sum()))
            row = build_objective(objective, EvaluationConfig()).label(
                plain, self._masking, ("evaluation", source, number)
            )
            yield HeldOutRow(
                batch_of(row, int(sizes[pieces].max()), self._tokenizer.pad_id), document[pieces]
            )

    def count(self, source: str, num_ids: int, progress_bar: bool) -> Int64:
        """Count the ids of the text itself: there is no other text of the source."""
        counts = np.zeros(num_ids, dtype=np.int64)
        for ids in self._documents[source]:
            counts += np.bincount(ids, minlength=num_ids)
        return counts


def load_encoder(tokenizer: TokenizerInfo) -> Tokenizer:
    """Load a tokenizer that neither cuts nor pads, and to which special strings such as "[MASK]" are text."""
    encoder = open_tokenizer_json(tokenizer.path / "tokenizer.json")
    encoder.encode_special_tokens = True
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def with_specials(content: Int32, tokenizer: TokenizerInfo) -> Int32:
    """Return the ids of a piece with [CLS] before and [SEP] after them."""
    return np.concatenate([[tokenizer.cls_id], content, [tokenizer.sep_id]]).astype(np.int32)


def batch_of(row: Row, longest: int, pad_id: int) -> MicroBatch:
    """Return a row as the input of a scorer.

    Args:
        row: Of documents, with targets.
        longest: Tokens of the longest of its documents.
        pad_id: Of the tokenizer.
    """
    return micro_batches(collate([row], longest), rows=1, pad_id=pad_id)[0]


def _encode(source: str, texts: Sequence[str], encoder: Tokenizer, progress_bar: bool) -> list[Int32]:
    shown = tqdm(texts, desc=f"{source}: tokens", leave=False, disable=None if progress_bar else True)
    found = []
    for number, text in enumerate(shown, 1):
        with tokenizer_errors(f"{source}: document {number} cannot be tokenized"):
            found.append(np.array(encoder.encode(text, add_special_tokens=False).ids, dtype=np.int32))
    return found


def read_raw_text(inputs: Sequence[str], text_field: str, max_documents: int) -> dict[str, list[str]]:
    """Read the documents of files.

    Args:
        inputs: NAME=PATTERN for each source; several patterns are separated by commas. Of several files of a source,
            about the same number of documents is read.
        text_field: The field or column of the text, in files that have some.
        max_documents: Most documents of a source.

    Returns:
        Source -> its texts, none of which is empty.

    Raises:
        ValueError: An input is not of this form, matches no file, cannot be read or holds no text.
    """
    patterns: dict[str, list[str]] = {}
    for text in inputs:
        name, equals, rest = text.partition("=")
        if not equals or not rest or not is_source_name(name):
            raise ValueError(
                f"--text: {text!r} must be NAME=PATTERN, such as web='/data/web/*.jsonl.gz', with a name of letters, "
                "digits, '_', '-' and '.'"
            )
        patterns.setdefault(name, []).extend(rest.split(","))
    return {name: _read_source(name, patterns[name], text_field, max_documents) for name in patterns}


def _read_source(name: str, patterns: list[str], text_field: str, max_documents: int) -> list[str]:
    try:
        files = resolve_inputs(patterns).items
        # Spread evenly, if there are more files than documents to read.
        files = [
            files[at] for at in np.linspace(0, len(files) - 1, min(len(files), max_documents)).astype(int)
        ]
        texts = (
            "".join(pieces_of(text))
            for file in files
            for text in itertools.islice(
                read_texts(Span(file), Reading(text_field)), -(-max_documents // len(files))
            )
        )
        found = list(itertools.islice(texts, max_documents))
    except (
        ValueError
    ) as error:  # raised again here, because only errors of this package are addressed to users
        raise ValueError(f"--text {name}: {error}") from error
    if not found:
        raise ValueError(f"--text {name}: no document in {', '.join(patterns)}; name files with text")
    return found
