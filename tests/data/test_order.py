from itertools import pairwise

import numpy as np
import pytest

from modernbert_train.data.order import SourceOrder, permutation, philox

SMALL = [7, 5]  # few shards: blocks are dealt
LARGE = [3] * 40  # many shards to a stream: shards are dealt


def make_order(shard_blocks, streams, key=("seed", 1), tokens=10):
    return SourceOrder(shard_blocks, np.full(sum(shard_blocks), tokens), streams, key)


def test_random_numbers_are_those_of_the_key_for_ever():
    # A change here would make every run resume with other data than it was started with.
    assert permutation(6, 17, 0, "web").tolist() == [5, 1, 3, 4, 2, 0]
    assert philox(17, 0, "web").random_raw(2).tolist() == [17335407141030014740, 3366178305440511688]
    assert permutation(100, "a").tolist() != permutation(100, "b").tolist()


@pytest.mark.parametrize("shard_blocks", [SMALL, LARGE])
@pytest.mark.parametrize("streams", [1, 2, 5])
def test_a_pass_holds_every_block_once_over_the_streams(shard_blocks, streams):
    order = make_order(shard_blocks, streams)
    for pass_index in range(3):
        blocks = [order.blocks_of_pass(stream, pass_index) for stream in range(streams)]
        assert sorted(np.concatenate(blocks).tolist()) == list(range(sum(shard_blocks)))


def test_passes_differ():
    order = make_order(SMALL, 1)
    assert order.blocks_of_pass(0, 0).tolist() != order.blocks_of_pass(0, 1).tolist()


def test_whole_shards_are_dealt_when_there_are_many():
    order = make_order(LARGE, 5)
    shards = [set((order.blocks_of_pass(stream, 0) // 3).tolist()) for stream in range(5)]
    assert all(len(of_stream) == 8 for of_stream in shards)
    assert len(set.union(*shards)) == 40


def test_fewer_blocks_than_streams_serve_all_streams_in_turn():
    order = make_order([3], 7)
    counts = [[len(order.blocks_of_pass(stream, number)) for stream in range(7)] for number in range(7)]
    assert np.sum(counts, axis=0).tolist() == [3] * 7
    assert np.sum(counts, axis=1).tolist() == [3] * 7
    assert len(order.blocks_between(6, 0, 50)) == 5


@pytest.mark.parametrize("shard_blocks", [SMALL, LARGE])
def test_intervals_tile_the_endless_sequence(shard_blocks):
    sizes = np.random.default_rng(1).integers(1, 50, sum(shard_blocks))
    order = SourceOrder(shard_blocks, sizes, 2, ("seed",))
    expected = np.concatenate([order.blocks_of_pass(1, number) for number in range(6)])
    edges = [0, 1, 40, 41, 200, 777, 800]
    pieces = [order.blocks_between(1, start, stop) for start, stop in pairwise(edges)]
    got = np.concatenate(pieces)
    assert len(got) > 20
    assert got.tolist() == expected[: len(got)].tolist()
    # Asking for a later interval first gives the same: there is no state that matters.
    fresh = SourceOrder(shard_blocks, sizes, 2, ("seed",))
    assert fresh.blocks_between(1, 200, 777).tolist() == pieces[4].tolist()
