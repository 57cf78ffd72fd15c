"""Detects how the documents of an external store are stored, by reading a sample of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from data_prep.index.external_store import ExternalSplit
from modernbert_train.store.external import (
    SPECIALS,
    SampleLayout,
    ShardLayout,
    sample_offsets,
    shard_layout,
    spans_of,
)
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.manifest import TokenizerInfo
from modernbert_train.store.mds import Shard

SAMPLED_SHARDS = 4
SAMPLED_DOCUMENTS = 64  # per shard
Item = TypeVar("Item")


def detect_samples(
    files: ShardFiles,
    split: ExternalSplit,
    name: str,
    tokenizer: TokenizerInfo,
    column: str,
    bytes_dtype: str | None,
    strip: tuple[str, ...] | None,
) -> SampleLayout:
    """Detect how a split holds its documents, and print the findings.

    Args:
        files: of the store.
        split: to sample.
        name: of the split, for messages.
        tokenizer: that the store was made with.
        column: of the ids.
        bytes_dtype: dtype of the ids if the column holds bytes.
        strip: special tokens to strip; None to detect them.

    Returns:
        The layout of the samples.

    Raises:
        ValueError: The column holds no ids, ids exceed the tokenizer's, or no document can be read.
    """
    samples = SampleLayout(column, bytes_dtype, strip or (), tokenizer.vocab_size)
    found: Counter[str] = Counter()
    whole = fixed_length = False
    problem: Exception | None = None
    for shard in _spread(split.shards, SAMPLED_SHARDS):
        try:
            layout = shard_layout(shard, samples)
        except ValueError as error:
            raise ValueError(f"store: {_path(files, split, shard)}: {error}") from error
        fixed_length |= layout.ids_bytes is not None
        whole |= reads_whole(files, shard, layout)
        try:
            documents = _some_documents(files, shard.below(split.folder), layout)
        except (ValueError, FileNotFoundError) as error:  # indexing will read the shard again and report it
            problem = error
            continue
        for ids in documents:
            _count(ids, tokenizer, found, _path(files, split, shard))
    if not found["documents"]:
        raise ValueError(f"store: {files.root}: no document of {name} can be read ({problem})")
    if strip is None:
        samples = replace(samples, strip=_to_strip(found, whole, fixed_length))
    encoding = split.shards[0].column_encodings[split.shards[0].column_names.index(column)]
    print(f"{name}: {column} is {encoding}; {_describe(found, samples)}")
    return samples


def reads_whole(files: ShardFiles, shard: Shard, layout: ShardLayout) -> bool:
    """Check whether the lengths of documents need the whole shard; otherwise its header is enough."""
    return (
        not layout.in_header
        or layout.ids_bytes is not None
        or shard.compressed is not None
        or not files.reads_parts
    )


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Choose up to `count` evenly spaced items, including the first and the last."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[number] for number in chosen]


def _some_documents(files: ShardFiles, shard: Shard, layout: ShardLayout) -> list[np.ndarray]:
    data = files.read_shard(shard)
    starts, ends = sample_offsets(data, shard.num_samples, len(data))
    chosen = np.array(_spread(range(len(starts)), SAMPLED_DOCUMENTS))
    spans = spans_of(layout, data, starts[chosen], ends[chosen])
    stops = spans.first + spans.count * spans.dtype.itemsize
    return [
        np.frombuffer(data[first:stop].tobytes(), spans.dtype)
        for first, stop in zip(spans.first, stops, strict=True)
    ]


def _count(ids: np.ndarray, tokenizer: TokenizerInfo, found: Counter[str], path: str) -> None:
    if not len(ids):
        return
    if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
        raise ValueError(
            f"store: {path} has ids from {ids.min()} to {ids.max()}, but those of the tokenizer {tokenizer.path} are "
            f"0 to {tokenizer.vocab_size - 1}; name the tokenizer the store was made with, or check --column "
            "and --dtype"
        )
    not_padding = ids[ids != tokenizer.pad_id]
    found["documents"] += 1
    found["pad"] += ids[-1] == tokenizer.pad_id
    found["cls"] += ids[0] == tokenizer.cls_id
    found["sep"] += len(not_padding) > 1 and not_padding[-1] == tokenizer.sep_id


def _to_strip(found: Counter[str], whole: bool, fixed_length: bool) -> tuple[str, ...]:
    """Choose what to strip: [CLS] and [SEP] that all documents have, and [PAD].

    If shards are read whole, a [SEP] that only some documents have is stripped from those.

    Returns:
        The special tokens, from SPECIALS.
    """
    num_documents = found["documents"]
    strip = {
        "cls": found["cls"] == num_documents,
        "sep": found["sep"] == num_documents or (whole and found["sep"] > 0),
        "pad": found["pad"] > 0 or fixed_length,
    }
    return tuple(special for special in SPECIALS if strip[special])


def _describe(found: Counter[str], samples: SampleLayout) -> str:
    shares = (
        f"[{special.upper()}] in {found[special]} ({'stripped' if special in samples.strip else 'kept'})"
        for special in SPECIALS
        if found[special]
    )
    return f"{found['documents']} documents sampled: {', '.join(shares) or 'no [CLS], [SEP] or [PAD]'}"


def _path(files: ShardFiles, split: ExternalSplit, shard: Shard) -> str:
    return f"{files.root}/{shard.below(split.folder).raw.basename}"
