"""Leaks between the rows a task trains on and those it is scored on: texts that stand in both.

A score on rows whose answer was trained on measures memory. Three signs are looked for, all without regard to case,
punctuation and white space: whole rows, the text of a column, and 13 words in a row (the length by which GPT-3's
authors looked for their test sets in the training text; Brown et al. 2020, appendix C).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from modernbert_train.tasks.reading import Rows, TaskRows
from modernbert_train.tasks.schema import Task

# The texts of a row, one for each column.
Texts: TypeAlias = tuple[str, ...]

NGRAM_WORDS = 13
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Leaks:
    """How many rows of a valid set stand in train."""

    num_rows: int
    # All texts of the row are those of a row of train, whatever its label.
    rows: int
    # Column -> rows whose text there is that of the same column of a row of train; empty for one column.
    columns: dict[str, int]
    # Rows with a text of 13 words or more, and how many of them share 13 words in a row with any text of train.
    long_rows: int
    ngrams: int

    @property
    def share(self) -> float:
        """The largest share of rows that one of the signs finds."""
        return max(self.rows, *self.columns.values(), self.ngrams) / self.num_rows

    @property
    def text(self) -> str:
        """All counts in one line."""
        columns = "".join(f"; {name}: {count:,}" for name, count in self.columns.items())
        return (
            f"of {self.num_rows:,} valid rows, in train: whole rows: {self.rows:,}{columns}; {NGRAM_WORDS} words in a "
            f"row: {self.ngrams:,} of the {self.long_rows:,} that are so long"
        )


def leaks_of_task(task: Task, rows: TaskRows) -> dict[str, Leaks]:
    """Look for the rows of each valid set of a task in its rows to train on; the words of a row are one text."""
    of_words = task.kind == "tokens"

    def texts(part: Rows) -> list[Texts]:
        return [(" ".join(words),) for words in part.texts] if of_words else part.texts

    columns, train = ["words"] if of_words else task.text, texts(rows.train)
    return {name: find_leaks(columns, train, texts(part)) for name, part in rows.valid.items()}


def find_leaks(columns: Sequence[str], train: Sequence[Texts], valid: Sequence[Texts]) -> Leaks:
    """Look for the rows of a valid set in the rows of train.

    Args:
        columns: Names of the columns of text.
        train: The texts of each row of train.
        valid: The texts of each row of the valid set, at least one.

    Returns:
        The counts.
    """
    words_of_valid = [tuple(tuple(_words(text)) for text in row) for row in valid]
    wanted_ngrams = {ngram for row in words_of_valid for words in row for ngram in _ngrams(words)}
    seen_rows: set[tuple[tuple[str, ...], ...]] = set()
    seen_texts: list[set[tuple[str, ...]]] = [set() for _ in columns]
    seen_ngrams: set[tuple[str, ...]] = set()
    wanted_texts = [{row[place] for row in words_of_valid} for place in range(len(columns))]
    # Only what is wanted is kept, so that memory depends on the valid rows alone.
    for texts in train:
        row = tuple(tuple(_words(text)) for text in texts)
        for words, wanted, seen in zip(row, wanted_texts, seen_texts, strict=True):
            if words in wanted:
                seen.add(words)
            seen_ngrams.update(ngram for ngram in _ngrams(words) if ngram in wanted_ngrams)
        if all(words in seen for words, seen in zip(row, seen_texts, strict=True)):
            seen_rows.add(row)
    shared = {
        name: sum(bool(row[place]) and row[place] in seen_texts[place] for row in words_of_valid)
        for place, name in enumerate(columns)
    }
    ngrams_of_rows = [{ngram for words in row for ngram in _ngrams(words)} for row in words_of_valid]
    return Leaks(
        num_rows=len(valid),
        rows=sum(row in seen_rows for row in words_of_valid),
        columns=shared if len(columns) > 1 else {},
        long_rows=sum(bool(ngrams) for ngrams in ngrams_of_rows),
        ngrams=sum(not ngrams.isdisjoint(seen_ngrams) for ngrams in ngrams_of_rows),
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(len(words) - NGRAM_WORDS + 1):
        yield tuple(words[start : start + NGRAM_WORDS])
