"""What the commands print: tables."""

import json
from collections.abc import Iterable, Sequence

from modernbert_train.store.manifest import Manifest, Split


def print_table(header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> None:
    """Print columns: the first one left-aligned, numbers with thousands separators."""
    cells = [list(header)] + [[_format(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join((first, *rest)).rstrip())


def _format(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def print_store(manifest: Manifest, seconds: float) -> None:
    """Print the summary of a preparation that took `seconds`."""
    splits = [(s, name, split) for s, splits in manifest.sources.items() for name, split in splits.items()]
    rows = [
        (f"{source}/{name}", split.num_documents, split.num_tokens, split.num_tokens / split.num_documents,
         split.num_blocks, len(split.shards), _shard_megabytes(split))
        for source, name, split in splits
    ]  # fmt: skip
    print_table(("split", "documents", "tokens", "tokens/document", "blocks", "shards", "megabytes"), rows)
    num_tokens = sum(split.num_tokens for _, _, split in splits)
    num_documents = sum(split.num_documents for _, _, split in splits)
    print(
        f"store: {manifest.path}  {num_documents:,} documents, {num_tokens:,} tokens ({manifest.token_dtype})"
        f" in {seconds:.1f} s: {num_tokens / seconds:,.0f} tokens/s"
    )
    for source, counts in manifest.left_out.items():
        if counts:
            print(f"  {source}: left out {left_out_words(counts)}")
        splits_of = manifest.sources[source]
        if "valid" not in splits_of and splits_of["train"].samples is None:
            print(
                f"  {source}: no document is held out; for evaluation raise --valid-fraction or add documents"
            )


def left_out_words(counts: dict[str, int]) -> str:
    """What was left out of a source, such as "3 empty, 1,200 duplicate"."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items()) or "nothing"


def _shard_megabytes(split: Split) -> float:
    shards = json.loads((split.path / "index.json").read_text(encoding="utf-8"))["shards"]
    return sum((shard["zip_data"] or shard["raw_data"])["bytes"] for shard in shards) / 1e6
