from itertools import chain, pairwise

import numpy as np
import pytest

from modernbert_train.data.order import (
    BLOCK,
    DOCUMENTS,
    FIRST_DOCUMENT,
    GROUP_SHARDS,
    TOKENS,
    SourceOrder,
    block_table,
)
from modernbert_train.store.split import Split, write_sidecars

FEW_SHARDS = [7, 0, 5]  # blocks are dealt; a shard may be empty
MANY_SHARDS = [3] * 40  # shards are dealt, to up to 5 nodes


@pytest.fixture
def make_split(tmp_path):
    """A split of which there are only the sidecars: blocks of one to four documents of 1 to 19 tokens."""

    def make(shard_blocks: list[int]) -> Split:
        random = np.random.default_rng(1)
        documents = random.integers(1, 5, sum(shard_blocks))
        lengths = random.integers(1, 20, documents.sum())
        tokens = np.add.reduceat(lengths, np.cumsum(documents) - documents)
        return write_sidecars(tmp_path, lengths, np.column_stack([documents, tokens]), np.array(shard_blocks))

    return make


def read(order: SourceOrder, node: int, tokens: int) -> np.ndarray:
    """What a node reads first, about so many tokens."""
    return order.blocks_between(node, 0, tokens)


def an_epoch(order: SourceOrder, nodes: int, epoch: int) -> list[list[int]]:
    """The blocks that each node reads in an epoch: two epochs of few units differ in length, so they are asked for."""
    found = []
    for node in range(nodes):
        number = end = -1
        while number < epoch:
            number, start, end = order.epoch_at(node, max(end, 0))
        found.append(order.blocks_between(node, start, end)[:, BLOCK].tolist() if number == epoch else [])
    return found


def test_a_table_of_blocks_is_that_of_the_sidecars(make_split):
    split = make_split(FEW_SHARDS)
    table = block_table(split, np.array([2, 1, 0]))
    assert table[:, BLOCK].tolist() == [7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6]
    for block, first_document, documents, tokens in table.tolist():
        assert [documents, tokens] == split.blocks()[block].tolist()
        assert first_document == split.blocks()[:block, 0].sum()
        assert split.lengths(first_document, documents).sum() == tokens


@pytest.mark.parametrize("shard_blocks", [FEW_SHARDS, MANY_SHARDS])
@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_an_epoch_holds_every_block_once_over_the_nodes(make_split, shard_blocks, nodes):
    order = SourceOrder(make_split(shard_blocks), nodes, ("seed", 1))
    for epoch in range(3):
        assert sorted(chain.from_iterable(an_epoch(order, nodes, epoch))) == list(range(sum(shard_blocks)))


def test_epochs_differ(make_split):
    order = SourceOrder(make_split(FEW_SHARDS), 1, ("seed",))
    assert an_epoch(order, 1, 0) != an_epoch(order, 1, 1)


def test_whole_shards_are_dealt_when_there_are_many(make_split):
    order = SourceOrder(make_split(MANY_SHARDS), 5, ("seed",))
    shards = [{block // 3 for block in blocks} for blocks in an_epoch(order, 5, 0)]
    assert all(len(of_node) == 8 for of_node in shards)
    assert len(set.union(*shards)) == 40


def test_blocks_are_shuffled_over_the_shards_of_a_group_and_no_further(make_split):
    order = SourceOrder(make_split(MANY_SHARDS), 1, ("seed",))
    shards = [block // 3 for block in an_epoch(order, 1, 0)[0]]
    groups = [shards[first : first + 3 * GROUP_SHARDS] for first in range(0, 120, 3 * GROUP_SHARDS)]
    assert [len(set(group)) for group in groups] == [GROUP_SHARDS] * 5
    assert len(set(groups[0][:6])) > 2  # not shard by shard


def test_fewer_blocks_than_nodes_serve_all_nodes_in_turn(make_split):
    split = make_split([3])
    order = SourceOrder(split, 7, ("seed",))
    counts = [[len(blocks) for blocks in an_epoch(order, 7, number)] for number in range(7)]
    assert np.sum(counts, axis=0).tolist() == [3] * 7
    assert np.sum(counts, axis=1).tolist() == [3] * 7
    assert read(order, 6, 200)[:, TOKENS].sum() >= 200


@pytest.mark.parametrize("shard_blocks", [FEW_SHARDS, MANY_SHARDS])
def test_intervals_tile_the_endless_sequence(make_split, shard_blocks):
    split = make_split(shard_blocks)
    order = SourceOrder(split, 2, ("seed",))
    expected = read(order, 1, 5_000)
    assert expected[:, DOCUMENTS].sum() > split.num_documents  # a node of two: more than two of its epochs
    edges = [0, 1, 40, 41, 200, 777, 1_800, 5_000]
    pieces = [order.blocks_between(1, start, stop) for start, stop in pairwise(edges)]
    assert np.concatenate(pieces).tolist() == expected.tolist()
    assert (expected[:, FIRST_DOCUMENT] < split.num_documents).all()
    # Asking for a later interval first gives the same: caches do not matter.
    fresh = SourceOrder(split, 2, ("seed",))
    assert fresh.blocks_between(1, 777, 1_800).tolist() == pieces[5].tolist()
    assert fresh.blocks_between(1, 41, 200).tolist() == pieces[3].tolist()
