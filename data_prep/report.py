"""Tables and summaries that the commands print."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from modernbert_train.common.text import format_table
from modernbert_train.store.lost_text import TextCounts, describe_text, lost_text_warning
from modernbert_train.store.manifest import Manifest, Split
from modernbert_train.store.mds import read_shards


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
    print_lost_text(manifest.texts)


def print_lost_text(texts: Mapping[str, TextCounts | None]) -> None:
    """Warn of each source whose text the tokenizer loses."""
    for source, counts in texts.items():
        warning = lost_text_warning(source, counts)
        if warning is not None:
            print(f"warning: {warning}", file=sys.stderr)


def left_out_words(counts: dict[str, int]) -> str:
    """Describe what was left out of a source, such as "3 empty, 1,200 duplicate"."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items()) or "nothing"


def _shard_megabytes(split: Split) -> float:
    return sum((shard.compressed or shard.raw).bytes for shard in read_shards(split.path)) / 1e6
