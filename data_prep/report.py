"""What the commands print: tables of a store, and samples of its documents."""

import json
from collections.abc import Iterable, Sequence

import numpy as np

from data_prep.encoding import load_tokenizer
from modernbert_train.data.manifest import Manifest, Split

CONTEXTS_TOKENS = (1_024, 8_192)  # of the recipes: longer documents are read in several pieces
SAMPLE_TOKENS = 80


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
        if "valid" not in manifest.sources[source]:
            print(
                f"  {source}: no document is held out; for evaluation raise --valid-fraction or add documents"
            )


def left_out_words(counts: dict[str, int]) -> str:
    """What was left out of a source, such as "3 empty, 1,200 duplicate"."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items()) or "nothing"


def _shard_megabytes(split: Split) -> float:
    return sum(path.stat().st_size for path in split.path.glob("shard.*")) / 1e6


def print_inspection(manifest: Manifest, source: str | None, num_samples: int) -> None:
    """Print a table of the lengths of every source, then `num_samples` documents of each.

    ValueError: a source that the store does not have.
    """
    if source is not None and source not in manifest.sources:
        raise ValueError(
            f"source: {source!r} is not in {manifest.path}; sources: {', '.join(manifest.sources)}"
        )
    chosen = {name: splits for name, splits in manifest.sources.items() if source in (None, name)}
    header = ["split", "documents", "tokens", "p5", "p50", "p95", "max"]
    header += [f"documents > {tokens:,}" for tokens in CONTEXTS_TOKENS]
    print_table(
        header,
        [
            (f"{name}/{s}", *_length_cells(split))
            for name, splits in chosen.items()
            for s, split in splits.items()
        ],
    )
    print(f"tokenizer {manifest.tokenizer_fingerprint[:16]}..., {manifest.vocab_size:,} embedding rows")
    print(f"made by: {manifest.command}")
    for name in chosen:
        licence = manifest.licences.get(name, "not stated")
        print(f"{name}: licence {licence}; left out {left_out_words(manifest.left_out[name])}")
    tokenizer = load_tokenizer(manifest.path / "tokenizer.json")
    for name, splits in chosen.items():
        for number, ids in sample_documents(splits["train"], num_samples):
            text = tokenizer.decode(ids[:SAMPLE_TOKENS].tolist(), skip_special_tokens=False)
            more = " ..." if len(ids) > SAMPLE_TOKENS else ""
            print(f"\n--- {name}/train, document {number:,}, {len(ids):,} tokens\n{text}{more}")


def _length_cells(split: Split) -> list[str | int | float]:
    lengths = split.lengths()
    percentiles = [int(value) for value in np.percentile(lengths, (5, 50, 95, 100))]
    longer = [f"{(lengths > tokens).mean():.1%}" for tokens in CONTEXTS_TOKENS]
    return [split.num_documents, split.num_tokens, *percentiles, *longer]


def sample_documents(split: Split, num_samples: int) -> list[tuple[int, np.ndarray]]:
    """Number and ids of `num_samples` documents, evenly spread over a split."""
    num_samples = min(num_samples, split.num_documents)
    block_ends = np.cumsum(split.blocks()[:, 0])
    samples = []
    for number in ((i * split.num_documents) // num_samples for i in range(num_samples)):
        block = int(np.searchsorted(block_ends, number, side="right"))
        in_block = number - (int(block_ends[block - 1]) if block else 0)
        sample = _read_block(split, block)
        starts = np.concatenate(([0], np.cumsum(sample["lengths"], dtype=np.int64)))
        samples.append((number, sample["input_ids"][starts[in_block] : starts[in_block + 1]]))
    return samples


def _read_block(split: Split, block: int) -> dict[str, np.ndarray]:
    from streaming.base.format import reader_from_json  # imports torch, which no other command here needs

    shards = json.loads((split.path / "index.json").read_text(encoding="utf-8"))["shards"]
    shard = split.shard_of(block)
    first_block = int(split.first_of_shards[shard, 0])
    return reader_from_json(str(split.path), None, shards[shard])[block - first_block]
