"""Tables and summaries that the commands print."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from modernbert_train.common.text import format_table
from modernbert_train.store.lost_text import TextCounts, describe_text, lost_text_warning
from modernbert_train.store.manifest import Manifest, Split
from modernbert_train.store.mds import read_shards

LONG_CHARACTERS = 1_000_000  # a longer document is perhaps several


def print_table(header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> None:
    """Print a table whose numbers have thousands separators."""
    print(format_table(header, [[_format(value) for value in row] for row in rows]))


def _format(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def print_store(manifest: Manifest, seconds: float) -> None:
    """Print the summary of a store that took `seconds` to prepare."""
    splits = {
        f"{source}/{name}": split
        for source, source_splits in manifest.sources.items()
        for name, split in source_splits.items()
    }
    rows = [
        (name, split.num_documents, split.num_tokens, split.num_tokens / split.num_documents,
         split.num_blocks, len(split.shards), _shard_megabytes(split))
        for name, split in splits.items()
    ]  # fmt: skip
    print_table(("split", "documents", "tokens", "tokens/document", "blocks", "shards", "megabytes"), rows)
    num_tokens = sum(split.num_tokens for split in splits.values())
    num_documents = sum(split.num_documents for split in splits.values())
    print(
        f"store: {manifest.path}  {num_documents:,} documents, {num_tokens:,} tokens ({manifest.token_dtype})"
        f" in {seconds:.1f} s: {num_tokens / seconds:,.0f} tokens/s"
    )
    for source, counts in manifest.left_out.items():
        if counts:
            print(f"  {source}: left out {left_out_words(counts)}")
        print(f"  {source}: {describe_text(manifest.texts[source])}")
        source_splits = manifest.sources[source]
        if "valid" not in source_splits and source_splits["train"].sample_layout is None:
            print(
                f"  {source}: no document is held out; for evaluation raise --valid-fraction or add documents"
            )
    print_warnings(manifest, manifest.sources)


def print_warnings(manifest: Manifest, sources: Iterable[str]) -> None:
    """Warn of each of some sources whose text the tokenizer loses, or which may be several documents taken for one."""
    for source in sources:
        counts = manifest.texts[source]
        for warning in (
            lost_text_warning(source, counts),
            long_document_warning(source, manifest.sources[source], counts),
        ):
            if warning is not None:
                print(f"warning: {warning}", file=sys.stderr)


def long_document_warning(source: str, splits: Mapping[str, Split], counts: TextCounts | None) -> str | None:
    """Return a warning if a source is a single document, or has one of more than LONG_CHARACTERS."""
    if counts is None:
        return None  # its documents were made elsewhere
    longest_tokens = max(int(part.max()) for split in splits.values() for part in split.lengths_in_parts())
    num_characters = round(longest_tokens / counts.tokens * counts.characters)
    if sum(split.num_documents for split in splits.values()) == 1:
        what = f"is a single document of about {num_characters:,} characters"
    elif num_characters > LONG_CHARACTERS:
        what = f"has a document of about {num_characters:,} characters"
    else:
        return None
    return (
        f"source {source} {what}; if its .txt files hold several documents each, pass --documents line, blank-line, or "
        "the text that separates them"
    )


def left_out_words(counts: dict[str, int]) -> str:
    """Describe what was left out of a source, such as "3 empty, 1,200 duplicate"."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items()) or "nothing"


def _shard_megabytes(split: Split) -> float:
    return sum((shard.compressed or shard.raw).bytes for shard in read_shards(split.path)) / 1e6
