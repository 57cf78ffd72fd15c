"""External MDS stores: written by `streaming.MDSWriter`, one document per sample."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from streaming import MDSWriter

CLS, SEP, PAD = 1, 2, 3  # ids of tests.helpers.stores.make_tokenizer
LENGTH = 64  # length of the arrays in fixed-length columns

Documents = Sequence[Sequence[int]]


def array(dtype: str) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda ids: np.array(ids, dtype)


def padded(dtype: str) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda ids: np.array([*ids, *[PAD] * (LENGTH - len(ids))], dtype)


# Column type -> function that converts a document to the value that the writer expects.
COLUMNS = {
    "ndarray:uint16": array("uint16"),
    "ndarray:uint32": array("uint32"),
    "ndarray:int32": array("int32"),
    "ndarray:int64": array("int64"),
    "ndarray": array("int64"),
    f"ndarray:uint16:{LENGTH}": padded("uint16"),
    "bytes": lambda ids: np.array(ids, "uint16").tobytes(),
}


def write_mds(
    folder: Path,
    documents: Documents,
    column: str = "ndarray:uint16",
    *,
    with_id: bool = True,
    compression: str | None = None,
    hashes: Sequence[str] = (),
    shard_bytes: int = 20_000,
) -> None:
    """Write documents unchanged, with any special tokens they contain."""
    columns = {"input_ids": column} | ({"id": "str", "zz": "int"} if with_id else {})
    with MDSWriter(
        out=str(folder),
        columns=columns,
        compression=compression,
        hashes=list(hashes),
        size_limit=shard_bytes,
        progress_bar=False,
    ) as writer:
        for number, ids in enumerate(documents):
            sample = {"input_ids": COLUMNS[column](ids)}
            writer.write(sample | ({"id": f"<doc {number}>", "zz": number} if with_id else {}))


def with_specials(documents: Documents) -> list[list[int]]:
    return [[CLS, *ids, SEP] for ids in documents]
