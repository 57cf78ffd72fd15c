"""What is in the rows: for every piece its document, and where that lies in the store. Reads lengths, never tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modernbert_train.data.plan import Plan, Window, advance
from modernbert_train.store.mds import read_shards
from modernbert_train.store.split import Split


@dataclass(frozen=True)
class Piece:
    """A stretch of one document in one row. Everything counts from 0."""

    stream: int
    window: int
    row: int  # of the window
    source: str
    document: int  # number within the source's training split
    shard: int
    file: str  # of the shard, within the store; or where it is read from, if it lies elsewhere
    document_in_shard: int
    start: int  # first content token, counted from the beginning of the document
    tokens: int  # content tokens
    block: int  # the sample of the store that holds the document
    start_in_block: int  # first content token, counted from the beginning of the block


def pieces_of_stream(plan: Plan, stream: int, position: tuple[int, int], count: int) -> list[Piece]:
    """The pieces in the next `count` rows of a stream, in their order in the batch."""
    index, row = position
    window = plan.window(stream, index)
    pieces = []
    for _ in range(count):
        while row == window.num_rows:
            index, row = index + 1, 0
            window = plan.window(stream, index)
        pieces += pieces_of_row(plan, stream, index, window, row)
        row += 1
    return pieces


def pieces_of_row(plan: Plan, stream: int, index: int, window: Window, row: int) -> list[Piece]:
    """The pieces of one row of window `index` of a stream."""
    pieces = []
    for piece in range(*window.pieces(row).indices(len(window.piece_tokens))):
        source, block = window.blocks[window.piece_block[piece]]
        split, document = plan.sources[source], int(window.piece_document[piece])
        start_in_block = int(window.piece_start[piece])
        shard = split.shard_of(block)
        pieces.append(
            Piece(
                stream=stream,
                window=index,
                row=row,
                source=source,
                document=document,
                shard=shard,
                file=shard_files(split.path, split.remote)[shard],
                document_in_shard=document - int(split.first_of_shards[shard, 1]),
                start=start_in_block - _start_in_block(split, block, document),
                tokens=int(window.piece_tokens[piece]),
                block=block,
                start_in_block=start_in_block,
            )
        )
    return pieces


def _start_in_block(split: Split, block: int, document: int) -> int:
    """First token of a document, counted from the beginning of its block."""
    first_document = split.first_document(block)
    return int(split.lengths(first_document, document - first_document).sum())


@cache
def shard_files(folder: Path, remote: str | None) -> list[str]:
    """Where the shards of a split lie: SOURCE/SPLIT/FILE in the store, or FILE behind the place they are read from."""
    names = [(shard.compressed or shard.raw).basename for shard in read_shards(folder)]
    place = remote or "/".join(folder.parts[-2:])
    return [f"{place}/{name}" for name in names]


def contents(plan: Plan, stream: int, position: tuple[int, int], passed_over: int, count: int) -> list[Piece]:
    """The pieces of the `count` rows that come `passed_over` rows behind a position."""
    return pieces_of_stream(plan, stream, advance(plan, stream, position, passed_over), count)
