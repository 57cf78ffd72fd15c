import pytest

from modernbert_train.data.sharing import share_batch, streams_of_rank
from tests.helpers.little_recipe import a_phase


@pytest.mark.parametrize("num_streams", [1, 7, 8, 96])
def test_every_stream_is_read_by_one_rank(num_streams):
    for world_size in range(1, num_streams + 1):
        shares = [list(streams_of_rank(num_streams, rank, world_size)) for rank in range(world_size)]
        assert [stream for share in shares for stream in share] == list(range(num_streams))
        assert {len(share) for share in shares} <= {num_streams // world_size, -(-num_streams // world_size)}


@pytest.mark.parametrize("rows_per_stream", [1, 2, 5])
@pytest.mark.parametrize("micro_batch_rows", [1, 2, 3, 8, 1_000])
def test_a_share(rows_per_stream, micro_batch_rows):
    num_streams = 24
    rows = num_streams * rows_per_stream
    phase = a_phase(row_tokens=32, batch_tokens=32 * rows, micro_batch_tokens=32 * micro_batch_rows)
    for world_size in range(1, num_streams + 1):
        share = share_batch(phase, num_streams, world_size)
        own = [len(streams_of_rank(num_streams, rank, world_size)) for rank in range(world_size)]
        assert (share.most_rows, share.fewest_rows) == (
            max(own) * rows_per_stream,
            min(own) * rows_per_stream,
        )
        capacity = share.num_micro_batches * share.micro_batch_rows
        assert share.most_rows <= capacity < share.most_rows + share.num_micro_batches
        assert share.micro_batch_rows <= micro_batch_rows
        assert (share.num_micro_batches - 1) * micro_batch_rows < share.most_rows, "no more than needed"
        assert share.padding == pytest.approx(1 - rows / (world_size * capacity))
        if num_streams % world_size == 0 and share.most_rows % micro_batch_rows == 0:
            assert (share.padding, share.micro_batch_rows) == (0, micro_batch_rows)


def test_a_share_in_words():
    phase = a_phase(row_tokens=32, batch_tokens=32 * 16, micro_batch_tokens=64)
    assert share_batch(phase, 8, 3).describe() == (
        "4 or 6 rows on each rank, 3 micro-batches of 2, 11.1% padding"
    )
    assert share_batch(phase, 8, 4).describe() == "4 rows on each rank, 2 micro-batches of 2, 0.0% padding"
