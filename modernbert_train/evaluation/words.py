"""Bits per byte of whole words: masked-language models compared across tokenizers.

Losses per token of two tokenizers are not comparable. A word is a run of characters that are no white space. About 15%
of the words are chosen by a hash of the numbers of document and word, so every model answers the same questions. All
pieces of the chosen words are masked. The probability of a word is the product of those of its pieces from left to
right, each given the pieces before it, in one forward pass for each rank: the pieces of rank 0 of all words, then those
of rank 1, while the pieces before them are shown, and so on. The bits of all words are divided by their UTF-8 bytes.

Words that a tokenizer knows only as [UNK], drops, or does not part from their neighbours are left out for all models.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer
from tqdm import tqdm

from modernbert_train.common.types import Float64, Int32, Int64
from modernbert_train.data.plan import SPECIALS_PER_PIECE
from modernbert_train.evaluation.held_out import batch_of, load_encoder, with_specials
from modernbert_train.evaluation.models import EvaluatedModel, find_device
from modernbert_train.evaluation.scorers import Scorer
from modernbert_train.evaluation.targets import Mean, mean_over_documents
from modernbert_train.objectives import Row
from modernbert_train.store.manifest import TokenizerInfo
from modernbert_train.store.tokenizer import tokenizer_errors

# Read of each document: the same characters for every model, which most contexts hold.
DOCUMENT_CHARACTERS = 2_000
CHOSEN_PERCENT = 15
# Tokens of a forward pass, about.
_BATCH_TOKENS = 8_192
_WORD = re.compile(r"\S+")

# First character, and the one after the last.
Span = tuple[int, int]


class MaskedDocument(NamedTuple):
    """A document in the ids of a model, and the positions of the pieces of its chosen words."""

    # With [CLS] and [SEP].
    ids: Int32
    words: list[Int64]


@dataclass(frozen=True)
class WordScore:
    """Scores of one model on the chosen words of one source."""

    source: str
    model: str
    num_documents: int
    num_words: int
    num_bytes: int
    num_pieces: int
    # Words that are left out for all models.
    num_left_out: int
    # With its standard error over documents.
    bits_per_byte: Mean
    # Of a model to which all tokens are equally likely.
    uniform_bits_per_byte: float
    # Whether the tokenizer takes capital letters for small ones, which are easier to predict.
    lower_cases: bool


def score_words(
    models: Sequence[EvaluatedModel],
    texts: Mapping[str, Sequence[str]],
    *,
    context_tokens: int,
    device: str = "auto",
    progress_bar: bool = True,
) -> list[WordScore]:
    """Score models with any tokenizers on the same words.

    Args:
        models: Trained with objective mlm.
        texts: Source -> its documents.
        context_tokens: Most tokens of a document in any model; documents are cut so that all models read the same.
        device: See `find_device`.
        progress_bar: Whether to show one, where the output is a terminal.

    Returns:
        The scores, source by source.

    Raises:
        ValueError: A model predicts next tokens, or a source has no word to score.
    """
    for model in models:
        if model.objective != "mlm":
            raise ValueError(
                f"{model.name} was last trained with objective {model.objective}, and words are scored by masked "
                "language models only; leave it out"
            )
    where = find_device(device)
    encoders = [load_encoder(model.tokenizer) for model in models]
    chosen = {
        source: mask_words(source, documents, models, encoders, context_tokens)
        for source, documents in texts.items()
    }
    scores = []
    for number, model in enumerate(models):
        scorer = model.scorer(where)
        for source, words in chosen.items():
            documents = words.documents[number]
            shown = tqdm(
                total=len(documents), desc=source, unit="document", leave=False,
                disable=None if progress_bar else True,
            )  # fmt: skip
            with shown:
                nats = score_documents(documents, scorer, model.tokenizer, shown)
            scores.append(_summary(source, model, encoders[number], words, documents, nats))
    return sorted(scores, key=lambda score: list(texts).index(score.source))


class ChosenWords(NamedTuple):
    """The words of a source that every model can be asked for."""

    # Of each model.
    documents: list[list[MaskedDocument]]
    # UTF-8 bytes and document of each word, in the order of the documents.
    num_bytes: Int64
    document: Int64
    num_left_out: int


def choose_words(document: int, text: str) -> list[Span]:
    """Return the places of about `CHOSEN_PERCENT` of the words of a document, which its number decides."""
    return [
        match.span()
        for number, match in enumerate(_WORD.finditer(text))
        if zlib.crc32(f"{document}/{number}".encode()) % 100 < CHOSEN_PERCENT
    ]


def mask_words(
    source: str,
    texts: Sequence[str],
    models: Sequence[EvaluatedModel],
    encoders: Sequence[Tokenizer],
    context_tokens: int,
) -> ChosenWords:
    """Choose words of documents, and find their pieces in the ids of each model.

    Args:
        source: For messages.
        texts: Documents, of which the beginning is read.
        models: To score.
        encoders: Their tokenizers.
        context_tokens: Most tokens of a document.

    Returns:
        The words that all models can be asked for.

    Raises:
        ValueError: There is none, or a document cannot be tokenized.
    """
    documents: list[list[MaskedDocument]] = [[] for _ in models]
    num_bytes, numbers, num_left_out = [], [], 0
    for number, whole in enumerate(texts):
        with tokenizer_errors(f"{source}: document {number + 1} cannot be tokenized"):
            text, encodings = _fit(whole, encoders, context_tokens - SPECIALS_PER_PIECE)
        spans = choose_words(number, text)
        pieces = [
            [_pieces(text, span, encoding, model.tokenizer.unk_id) for span in spans]
            for model, encoding in zip(models, encodings, strict=True)
        ]
        kept = [at for at in range(len(spans)) if all(of_model[at] is not None for of_model in pieces)]
        num_left_out += len(spans) - len(kept)
        numbers += [number] * len(kept)
        num_bytes += [len(text[slice(*spans[at])].encode()) for at in kept]
        for mine, model, encoding, of_model in zip(documents, models, encodings, pieces, strict=True):
            ids = with_specials(np.array(encoding.ids, dtype=np.int32), model.tokenizer)
            words = [of_word + 1 for at in kept if (of_word := of_model[at]) is not None]
            mine.append(MaskedDocument(ids, words))
    if not num_bytes:
        raise ValueError(
            f"--text {source}: none of its words can be scored ({num_left_out} that were chosen are unknown to a "
            "tokenizer, or have no pieces of their own); name more text, or other models"
        )
    return ChosenWords(documents, np.array(num_bytes), np.array(numbers), num_left_out)


def _fit(text: str, encoders: Sequence[Tokenizer], most_tokens: int) -> tuple[str, list[Encoding]]:
    """Cut a text between two words so that no tokenizer makes more than `most_tokens` of it; return its encodings."""
    text = _cut(text, DOCUMENT_CHARACTERS)
    while True:
        encodings = [encoder.encode(text, add_special_tokens=False) for encoder in encoders]
        ends = [encoding.offsets[most_tokens][0] for encoding in encodings if len(encoding.ids) > most_tokens]
        if not ends:
            return text, encodings
        text = _cut(text, min(min(ends), len(text) - 1))  # shorter each time


def _cut(text: str, num_characters: int) -> str:
    """Return the whole words in the first characters of a text."""
    if len(text) <= num_characters:
        return text
    spaces = list(re.finditer(r"\s", text[: num_characters + 1]))
    return text[: spaces[-1].start()] if spaces else ""


def _pieces(text: str, span: Span, encoding: Encoding, unk_id: int | None) -> Int64 | None:
    """Return which tokens make up a word; None if it is unknown, dropped, or shares a token with another word."""
    start, end = span
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    first = int(np.searchsorted(np.maximum.accumulate(offsets[:, 1]), start, side="right"))
    last = int(np.searchsorted(np.maximum.accumulate(offsets[:, 0]), end, side="left"))
    if first >= last or unk_id in encoding.ids[first:last]:
        return None
    outside = text[offsets[first:last, 0].min() : start] + text[end : offsets[first:last, 1].max()]
    return None if outside.strip() else np.arange(first, last)


def score_documents(
    documents: Sequence[MaskedDocument], scorer: Scorer, tokenizer: TokenizerInfo, shown: tqdm | None = None
) -> Float64:
    """Score the chosen words of documents.

    Args:
        documents: In the ids of the model.
        scorer: Of the model.
        tokenizer: Of the model.
        shown: A progress bar of documents.

    Returns:
        The negative log-probability of each word in nats, document by document [num_words].
    """
    nats = [np.zeros(0)]
    for group in _groups(documents):
        nats.append(_score_group(group, scorer, tokenizer))
        if shown is not None:
            shown.update(len(group))
    return np.concatenate(nats)


def _groups(documents: Sequence[MaskedDocument]) -> Iterator[list[MaskedDocument]]:
    """Yield documents, in order, in groups of about `_BATCH_TOKENS` tokens."""
    group: list[MaskedDocument] = []
    for document in documents:
        if group and sum(len(other.ids) for other in group) + len(document.ids) > _BATCH_TOKENS:
            yield group
            group = []
        group.append(document)
    if group:
        yield group


def _score_group(group: Sequence[MaskedDocument], scorer: Scorer, tokenizer: TokenizerInfo) -> Float64:
    """Return the nats of each word of some documents, one forward pass for each rank of pieces."""
    first_word = np.cumsum([0, *(len(document.words) for document in group)])
    nats = np.zeros(first_word[-1])
    num_ranks = max((len(word) for document in group for word in document.words), default=0)
    for rank in range(num_ranks):
        ids, positions, labels, words, num_tokens = [], [], [], [], 0
        for document, first in zip(group, first_word.tolist(), strict=False):
            of_rank = [number for number, word in enumerate(document.words) if len(word) > rank]
            if not of_rank:  # needs no pass
                continue
            pieces = np.array([document.words[number][rank] for number in of_rank])
            ids.append(_masked(document, of_rank, rank, tokenizer.mask_id))
            positions.append(num_tokens + pieces)
            labels.append(document.ids[pieces])
            words.append(first + np.array(of_rank))
            num_tokens += len(document.ids)
        row = Row(
            input_ids=np.concatenate(ids),
            segment_tokens=np.array([len(of_document) for of_document in ids], dtype=np.int32),
            target_positions=np.concatenate(positions).astype(np.int32),
            labels=np.concatenate(labels),
            num_targets=sum(map(len, labels)),
            num_tokens=num_tokens,
        )
        longest = max(len(of_document) for of_document in ids)
        nats[np.concatenate(words)] += scorer(batch_of(row, longest, tokenizer.pad_id)).losses
    return nats


def _masked(document: MaskedDocument, words: Sequence[int], rank: int, mask_id: int) -> Int32:
    """Return a document with its chosen words masked, but for the pieces before `rank` of the words that go on.

    A word that ends before this rank is masked as a whole, so that it is no hint for the rest of longer ones.
    """
    ids = document.ids.copy()
    for word in document.words:
        ids[word] = mask_id
    for number in words:
        before = document.words[number][:rank]
        ids[before] = document.ids[before]
    return ids


def _summary(
    source: str,
    model: EvaluatedModel,
    encoder: Tokenizer,
    words: ChosenWords,
    documents: Sequence[MaskedDocument],
    nats: Float64,
) -> WordScore:
    num_pieces = sum(len(word) for document in documents for word in document.words)
    num_bytes = int(words.num_bytes.sum())
    return WordScore(
        source=source,
        model=model.name,
        num_documents=len(np.unique(words.document)),
        num_words=len(nats),
        num_bytes=num_bytes,
        num_pieces=num_pieces,
        num_left_out=words.num_left_out,
        bits_per_byte=mean_over_documents(nats / math.log(2), words.document, words.num_bytes),
        uniform_bits_per_byte=num_pieces * math.log2(model.tokenizer.num_ids) / num_bytes,
        lower_cases=_lower_cases(encoder),
    )


def _lower_cases(encoder: Tokenizer) -> bool:
    ids = encoder.encode("The Letters A To Z", add_special_tokens=False).ids
    return ids == encoder.encode("the letters a to z", add_special_tokens=False).ids
