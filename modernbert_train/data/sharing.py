"""How the ranks share a batch: each rank reads whole streams, as equally many as possible.

Where the number of ranks does not divide the streams, some ranks have a stream less. They add rows of padding, which
have no targets, so that all ranks do the same number of micro-batches of the same shape. So every number of ranks up to
the number of streams trains on the same batches, with the same gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from modernbert_train.config import PhaseConfig


def streams_of_rank(num_streams: int, rank: int, world_size: int) -> range:
    """Return the streams that a rank reads; the first ranks have one more if they cannot be shared equally."""
    each, more = divmod(num_streams, world_size)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))


def most_streams(num_streams: int, world_size: int) -> int:
    """Return the streams of the ranks that read the most."""
    return -(-num_streams // world_size)


@dataclass(frozen=True)
class BatchShare:
    """What each rank does of a batch."""

    # Rows of the ranks with the most streams, and of those with the fewest.
    most_rows: int
    fewest_rows: int
    # Of each rank; the last one, or several of a rank with fewer rows, are filled up with rows of padding.
    num_micro_batches: int
    micro_batch_rows: int
    # Rows of padding / all rows, over all ranks.
    padding: float

    def describe(self) -> str:
        """Return the share in words."""
        fewer = "" if self.fewest_rows == self.most_rows else f"{self.fewest_rows:,} or "
        return (
            f"{fewer}{self.most_rows:,} rows on each rank, {self.num_micro_batches:,} micro-batches of "
            f"{self.micro_batch_rows:,}, {self.padding:.1%} padding"
        )


def share_batch(phase: PhaseConfig, num_streams: int, world_size: int) -> BatchShare:
    """Share the batch of a phase, at its full size, among ranks.

    A micro-batch has fewer rows than the phase allows where equally many micro-batches then need less padding.

    Args:
        phase: The phase, whose batch has equally many rows of each stream.
        num_streams: Number of streams, at least one for each rank.
        world_size: Number of ranks.

    Returns:
        The share.
    """
    batch_rows = phase.batch_tokens // phase.row_tokens
    rows_per_stream = batch_rows // num_streams
    most = rows_per_stream * most_streams(num_streams, world_size)
    num_micro_batches = -(-most // (phase.micro_batch_tokens // phase.row_tokens))
    micro_batch_rows = -(-most // num_micro_batches)
    all_rows = world_size * num_micro_batches * micro_batch_rows
    return BatchShare(
        most_rows=most,
        fewest_rows=rows_per_stream * (num_streams // world_size),
        num_micro_batches=num_micro_batches,
        micro_batch_rows=micro_batch_rows,
        padding=1 - batch_rows / all_rows,
    )
