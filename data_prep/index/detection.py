"""What the documents of a foreign store hold besides content, found by reading some of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from data_prep.index.external_store import ExternalSplit, ShardInfo
from modernbert_train.store.external import SPECIALS, Layout, Samples, layout_of, sample_offsets, spans_of
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.manifest import TokenizerInfo

SAMPLED_SHARDS = 4
SAMPLED_DOCUMENTS = 64  # of each
Item = TypeVar("Item")


def detect_samples(
    files: ShardFiles,
    split: ExternalSplit,
    name: str,
    tokenizer: TokenizerInfo,
    column: str,
    bytes_dtype: str | None,
    strip: tuple[str, ...] | None,
) -> Samples:
    """How a split holds its documents; says on stdout what it found. `strip` overrides what some documents show.

    ValueError: a column that holds no ids, ids beyond the tokenizer's, no document that can be read.
    """
    samples = Samples(column, bytes_dtype, strip or (), tokenizer.vocab_size)
    found: Counter[str] = Counter()
    whole = fixed_length = False
    problem: Exception | None = None
    for info in _spread(split.shards, SAMPLED_SHARDS):
        try:
            layout = layout_of(info["column_names"], info["column_encodings"], info["column_sizes"], samples)
        except ValueError as error:
            raise ValueError(f"store: {_path(files, split, info)}: {error}") from error
        fixed_length |= layout.ids_bytes is not None
        whole |= reads_whole(files, info, layout)
        try:
            documents = _some_documents(files, in_folder(info, split.folder), layout)
        except (ValueError, FileNotFoundError) as error:  # indexing reads it again, and names it
            problem = error
            continue
        for ids in documents:
            _count(ids, tokenizer, found, _path(files, split, info))
    if not found["documents"]:
        raise ValueError(f"store: {files.root}: no document of {name} can be read ({problem})")
    if strip is None:
        samples = replace(samples, strip=_to_strip(found, whole, fixed_length))
    encoding = split.shards[0]["column_encodings"][split.shards[0]["column_names"].index(column)]
    print(f"{name}: {column} is {encoding}; {_words(found, samples)}")
    return samples


def reads_whole(files: ShardFiles, info: ShardInfo, layout: Layout) -> bool:
    """Whether the shard must be read to know the lengths of its documents; else its header tells them."""
    return (
        not layout.in_header
        or layout.ids_bytes is not None
        or bool(info["zip_data"])
        or not files.reads_parts
    )


def in_folder(info: ShardInfo, folder: str) -> ShardInfo:
    """An entry of index.json with names that count from the store, not from the folder of the index."""
    prefix = f"{folder}/" if folder else ""
    files = ("raw_data", "zip_data")
    return info | {
        key: info[key] and info[key] | {"basename": prefix + info[key]["basename"]} for key in files
    }


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """About `count` items, evenly spread, first and last among them."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[number] for number in chosen]


def _some_documents(files: ShardFiles, info: ShardInfo, layout: Layout) -> list[np.ndarray]:
    data = files.read_shard(info)
    starts, ends = sample_offsets(data, info["samples"], len(data))
    chosen = np.array(_spread(range(len(starts)), SAMPLED_DOCUMENTS))
    spans = spans_of(layout, data, starts[chosen], ends[chosen])
    stops = spans.first + spans.count * spans.dtype.itemsize
    return [
        np.frombuffer(data[first:stop].tobytes(), spans.dtype)
        for first, stop in zip(spans.first, stops, strict=True)
    ]


def _count(ids: np.ndarray, tokenizer: TokenizerInfo, found: Counter[str], shard: str) -> None:
    if not len(ids):
        return
    if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
        raise ValueError(
            f"store: {shard} has ids from {ids.min()} to {ids.max()}, the tokenizer {tokenizer.path} has "
            f"0 to {tokenizer.vocab_size - 1}; name the tokenizer the store was made with, or check --column "
            "and --dtype"
        )
    not_padding = ids[ids != tokenizer.pad_id]
    found["documents"] += 1
    found["pad"] += ids[-1] == tokenizer.pad_id
    found["cls"] += ids[0] == tokenizer.cls_id
    found["sep"] += len(not_padding) > 1 and not_padding[-1] == tokenizer.sep_id


def _to_strip(found: Counter[str], whole: bool, fixed_length: bool) -> tuple[str, ...]:
    """[CLS] if all documents have it. [SEP] too, or where shards are read whole, from those that have it."""
    every = found["documents"]
    strip = {
        "cls": found["cls"] == every,
        "sep": found["sep"] == every or (whole and found["sep"] > 0),
        "pad": found["pad"] > 0 or fixed_length,
    }
    return tuple(special for special in SPECIALS if strip[special])


def _words(found: Counter[str], samples: Samples) -> str:
    every = found["documents"]
    shares = (
        f"[{special.upper()}] in {found[special]} ({'not counted' if special in samples.strip else 'kept'})"
        for special in SPECIALS
        if found[special]
    )
    return f"of {every} documents sampled: {', '.join(shares) or 'no [CLS], [SEP] or [PAD]'}"


def _path(files: ShardFiles, split: ExternalSplit, info: ShardInfo) -> str:
    return f"{files.root}/{in_folder(info, split.folder)['raw_data']['basename']}"
