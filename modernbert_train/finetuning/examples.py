"""Rows of a task as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from tqdm import tqdm

from modernbert_train.checkpoints.hf.transformers_model import quiet
from modernbert_train.common.text import one_line
from modernbert_train.common.types import Int32, Int64
from modernbert_train.objectives import IGNORE_INDEX
from modernbert_train.tasks.metrics import UNSEEN
from modernbert_train.tasks.reading import Rows

# Whatever a tokenizer of Transformers may consist of; without one of them, it has none.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model",
)  # fmt: skip
# Rows that are tokenized at once.
_CHUNK = 1_000


@dataclass(frozen=True)
class Example:
    """A row as token ids, with its special tokens."""

    input_ids: Int32
    # Where the tokenizer gives them: which of two texts each token is of.
    token_types: Int32 | None
    # Classes: the number of the class. Regression: a number. Tokens: the class of each token, IGNORE_INDEX for all but
    # the first of each word.
    label: int | float | Int64
    # Whether the row was longer.
    is_cut: bool
    # Tokens: the token of each word, UNSEEN where the row was cut before it; and the class of each word.
    word_tokens: Int64 | None = None
    word_labels: Int64 | None = None


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a Hugging Face folder.

    Returns:
        Transformers' tokenizer.

    Raises:
        ValueError: There is none, or it cannot be loaded.
    """
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise ValueError(
            f"{folder}: has no tokenizer; put tokenizer.json and tokenizer_config.json of the model into it"
        )
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # whatever may be wrong with files that others wrote
            raise ValueError(
                f"{folder}: Transformers {transformers.__version__} cannot load its tokenizer "
                f"({one_line(error):.200}); put tokenizer.json and tokenizer_config.json of the model into it"
            ) from None
    if not tokenizer.is_fast:
        raise ValueError(f"{folder}: its tokenizer has no tokenizer.json; save one with Transformers")
    if not tokenizer("")["input_ids"]:
        raise ValueError(
            f"{folder}: its tokenizer adds no [CLS] and [SEP], which models are trained with; use that of the model"
        )
    return tokenizer


def encode(rows: Rows, kind: str, tokenizer: Any, max_tokens: int, title: str) -> list[Example]:
    """Tokenize rows.

    Args:
        rows: the rows.
        kind: of the task.
        tokenizer: Transformers' fast tokenizer.
        max_tokens: what is longer is cut; of two texts, the longer one is cut first.
        title: of the progress bar.

    Returns:
        An example for each row.
    """
    chunks = range(0, len(rows), _CHUNK)
    examples: list[Example] = []
    for start in tqdm(chunks, desc=title, unit="k rows", leave=False, disable=None):
        part = rows.take(range(start, min(start + _CHUNK, len(rows))))
        encode_part = _encode_words if kind == "tokens" else _encode_texts
        examples += encode_part(part, tokenizer, max_tokens)
    return examples


def _encode_texts(rows: Rows, tokenizer: Any, max_tokens: int) -> Iterator[Example]:
    encoded = _call(tokenizer, [list(texts) for texts in zip(*rows.texts, strict=True)], max_tokens)
    types = encoded.get("token_type_ids")
    for row, ids in enumerate(encoded["input_ids"]):
        yield Example(
            input_ids=np.array(ids, dtype=np.int32),
            token_types=None if types is None else np.array(types[row], dtype=np.int32),
            label=rows.labels[row],
            is_cut=encoded["is_cut"][row],
        )


def _encode_words(rows: Rows, tokenizer: Any, max_tokens: int) -> Iterator[Example]:
    """Yield rows of words, encoded as one text with spaces between them, which is what `pipeline` gets later."""
    encoded = _call(tokenizer, [[" ".join(words) for words in rows.texts]], max_tokens, offsets=True)
    types = encoded.get("token_type_ids")
    for row, ids in enumerate(encoded["input_ids"]):
        word_tokens = _first_tokens(rows.texts[row], encoded["offset_mapping"][row])
        word_labels = np.array(rows.labels[row], dtype=np.int64)
        label = np.full(len(ids), IGNORE_INDEX)
        seen = word_tokens != UNSEEN
        label[word_tokens[seen]] = word_labels[seen]
        yield Example(
            input_ids=np.array(ids, dtype=np.int32),
            token_types=None if types is None else np.array(types[row], dtype=np.int32),
            label=label,
            is_cut=encoded["is_cut"][row],
            word_tokens=word_tokens,
            word_labels=word_labels,
        )


def _call(tokenizer: Any, texts: list[list[str]], max_tokens: int, offsets: bool = False) -> dict[str, Any]:
    """Tokenize columns of texts, once without a limit, to know which rows are cut, and these again with it."""
    options = {"return_attention_mask": False, "verbose": False, "return_offsets_mapping": offsets}
    encoded = dict(tokenizer(*texts, **options))
    cut = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) > max_tokens]
    if cut:
        part = [[column[row] for row in cut] for column in texts]
        shorter = tokenizer(*part, truncation=True, max_length=max_tokens, **options)
        for name, values in shorter.items():
            for row, value in zip(cut, values, strict=True):
                encoded[name][row] = value
    return encoded | {"is_cut": np.isin(np.arange(len(encoded["input_ids"])), cut).tolist()}


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> Int64:
    """Return the first token of each word of a text that joins them by spaces; UNSEEN for a word without tokens.

    A token may begin with the space before its word. Special tokens are empty.
    """
    first = np.full(len(words), UNSEEN, dtype=np.int64)
    token, start = 0, 0
    for number, word in enumerate(words):
        end = start + len(word)
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        if token < len(offsets) and offsets[token][0] < end:
            first[number] = token
        start = end + 1
    return first
