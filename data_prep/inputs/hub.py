"""Rows of datasets: folders written by datasets.save_to_disk, and datasets of the Hugging Face Hub."""

from collections.abc import Iterator
from typing import Any

from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import HUB_PREFIX, Span, UnreadableFile
from modernbert_train.common.text import one_line


def load_saved(path: str) -> Any:
    """Load a dataset that `datasets.save_to_disk` wrote.

    Returns:
        A `datasets.Dataset`.

    Raises:
        UnreadableFile: The folder is damaged.
    """
    import datasets  # takes seconds to import

    try:
        return datasets.load_from_disk(path)
    except Exception as error:  # a damaged folder raises anything from KeyError to ArrowInvalid
        raise UnreadableFile(f"{path}: cannot be loaded ({one_line(error)})") from error


def load_hub(item: str) -> Any:
    """Open hf:NAME[@REVISION][:CONFIG][:SPLIT] for streaming; the default split is "train".

    Returns:
        A `datasets.IterableDataset`.

    Raises:
        ValueError: A name of another form.
        UnreadableFile: The dataset, its config or its split cannot be loaded.
    """
    import datasets  # takes seconds to import

    name, *rest = item.removeprefix(HUB_PREFIX).split(":")
    name, _, revision = name.partition("@")
    if not name or len(rest) > 2:
        raise ValueError(
            f"input: {item!r} must be hf:NAME[@REVISION], optionally with :SPLIT or :CONFIG:SPLIT"
        )
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True, revision=revision or None)
    except Exception as error:  # unknown names, splits and lost connections have no common type
        raise UnreadableFile(f"{item}: cannot be loaded ({one_line(error)})") from error


def saved_rows(span: Span, _: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a saved dataset."""
    rows = load_saved(span.item)
    last = len(rows) if span.last is None else span.last
    return enumerate(rows.select(range(span.first, last)), span.first + 1)


def hub_rows(span: Span, _: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a Hub dataset, or of one of its files, in which they are numbered."""
    rows = load_hub(span.item)
    if span.last is not None:  # one file, as planned in parts.py
        rows = rows.shard(num_shards=rows.num_shards, index=span.first)
    return enumerate(rows, 1)
