"""What a tokenizer makes of the text of a source: how much of it is lost, and how many tokens it takes.

Text is lost in two ways: as tokens [UNK], and as characters that decoding does not give back. The larger of the two
shares is the share of lost text. Both bounds on it stand here: above WARN_LOST_TEXT it is warned of wherever the store
is used; above MAX_LOST_TEXT, `data_prep tokenize` stops unless --max-lost-text allows more.
"""

from dataclasses import asdict, dataclass, fields

from modernbert_train.store.fields import Fields

WARN_LOST_TEXT = 0.01
MAX_LOST_TEXT = 0.2
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class TextCounts:
    """Counts over the text of a source. Those of "sampled" characters are over excerpts, without white space."""

    characters: int = 0
    # Of the text in UTF-8.
    bytes: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    # Characters of the excerpts before and after the tokenizer's normalizer, and how many of them it deletes.
    sampled_characters: int = 0
    deleted_characters: int = 0
    # Characters of the normalized excerpts, and how many of them do not come back from decoding.
    normalized_characters: int = 0
    lost_characters: int = 0

    def __add__(self, other: "TextCounts") -> "TextCounts":
        """Return the counts over both texts."""
        return TextCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are [UNK]."""
        return self.unknown_tokens / max(1, self.tokens)

    @property
    def lost_share(self) -> float:
        """Share of the normalized characters that do not come back from decoding."""
        return self.lost_characters / max(1, self.normalized_characters)

    @property
    def deleted_share(self) -> float:
        """Share of the characters that the normalizer deletes, such as accents."""
        return self.deleted_characters / max(1, self.sampled_characters)

    @property
    def share(self) -> float:
        """Share of lost text."""
        return max(self.unknown_share, self.lost_share)

    def describe(self) -> str:
        """Return the figures in words."""
        words = (
            f"{self.unknown_share:.2%} of the tokens are [UNK], {self.lost_share:.2%} of the characters are lost; "
            f"{self.tokens / max(1, self.characters):.3g} tokens per character, "
            f"{self.tokens / max(1, self.bytes):.3g} per byte"
        )
        deleted = f"; the normalizer deletes {self.deleted_share:.2%} of the characters"
        return words + deleted * (self.deleted_characters > 0)

    def to_json(self) -> dict[str, int]:
        """Return the counts as an object for the manifest."""
        return asdict(self)

    @staticmethod
    def from_fields(content: Fields) -> "TextCounts":
        """Return the counts of an object in a manifest."""
        return TextCounts(*(content.whole(field.name) for field in fields(TextCounts)))


def describe_text(counts: TextCounts | None) -> str:
    """Return the figures of a source in words, or that there are none."""
    return NOT_MEASURED if counts is None else counts.describe()


def lost_text_warning(source: str, counts: TextCounts | None) -> str | None:
    """Return a warning if the tokenizer loses, or deletes, more than WARN_LOST_TEXT of the text of a source."""
    if counts is None or max(counts.share, counts.deleted_share) <= WARN_LOST_TEXT:
        return None
    if counts.share <= WARN_LOST_TEXT:
        return (
            f"source {source}: the normalizer of the tokenizer deletes {counts.deleted_share:.1%} of the text"
        )
    return f"source {source}: the tokenizer loses {counts.share:.1%} of the text; use one that was trained on such text"


def check_lost_text(source: str, counts: TextCounts, limit: float, of_what: str = "") -> None:
    """Check that a source does not lose more than a share of its text.

    Args:
        source: name of the source.
        counts: over its text.
        limit: largest share that is allowed.
        of_what: the part of the source that was measured, such as " (its first 10 documents)".

    Raises:
        ValueError: The share is larger.
    """
    if counts.share > limit:
        raise ValueError(
            f"source {source}{of_what}: the tokenizer loses {counts.share:.1%} of the text, more than {limit:.1%}: "
            f"{counts.describe()}; use a tokenizer that was trained on such text, or allow it with --max-lost-text"
        )
