"""The documents named for a step are those whose tokens are in the loader's batch of that step."""

import json
from contextlib import closing

import numpy as np
import pytest
from streaming.base.format.mds.reader import MDSReader

from modernbert_train.planning.step_contents import pieces_of_stream
from tests.helpers.worlds import BATCHES, STREAMS, make_world, texts_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("contents"))
    with closing(world.inputs.reader):
        yield world


def named(world, step, start=None, positions=None):
    """Return the pieces of a step, counted from the start of its phase or from positions after an earlier step."""
    phase = world.phases()[step >= 5]
    first = start if start is not None else 5 * (step >= 5)
    passed_over = sum(BATCHES[first:step]) // STREAMS
    count = BATCHES[step] // STREAMS
    return [
        piece
        for stream in range(STREAMS)
        for piece in pieces_of_stream(
            phase.plan, stream, (positions or {}).get(stream, (0, 0)), passed_over, count
        )
    ]


def test_the_tokens_of_every_step(world):
    shuffle_blocks = {0: set(), 1: set()}
    for step, batch in enumerate(world.loader()):
        pieces = named(world, step)
        texts = [
            world.documents[piece.source][piece.document][piece.start : piece.start + piece.tokens]
            for piece in pieces
        ]
        assert texts == list(texts_of(batch, world.tokenizer))
        shuffle_blocks[int(step >= 5)] |= {piece.shuffle_block for piece in pieces}
    assert step == len(BATCHES) - 1
    assert all(len(blocks) > 1 for blocks in shuffle_blocks.values())


def test_counting_from_the_positions_of_a_checkpoint(world):
    loader = world.loader(num_workers=2)  # reads ahead of the saved position
    for step, _ in enumerate(loader, start=1):
        # Counting cannot start at the end of a phase: the next phase has its own positions.
        for later in range(step, 5 if step < 5 else len(BATCHES)) if step != 5 else ():
            assert named(world, later, step, loader.dataset.positions) == named(world, later)


def test_where_a_piece_lies_in_the_store(world):
    """The file of the shard, read directly, has the document at the stated index."""
    for piece in named(world, 3) + named(world, 8):
        folder = world.train[piece.source].path
        assert piece.file == f"{piece.source}/train/shard.{piece.shard:05}.mds"
        reader = shard_reader(folder, piece.shard)
        samples = [reader[sample] for sample in range(reader.samples)]
        lengths = np.concatenate([sample["lengths"] for sample in samples])
        tokens = np.concatenate([sample["input_ids"] for sample in samples])
        start = int(lengths[: piece.document_in_shard].sum())
        document = tokens[start : start + lengths[piece.document_in_shard]].tolist()
        assert document == world.documents[piece.source][piece.document]
        in_block = samples[piece.block - int(world.train[piece.source].first_of_shards[piece.shard, 0])]
        assert (
            in_block["input_ids"][piece.start_in_block :][: piece.tokens].tolist()
            == document[piece.start :][: piece.tokens]
        )


def shard_reader(folder, shard):
    info = json.loads((folder / "index.json").read_text())["shards"][shard]
    return MDSReader.from_json(str(folder), None, info)


def test_tokens_of_the_sources_are_those_of_the_pieces(world):
    """In every step, with any number of workers; the second phase reads a single source."""
    expected = {"web": 0, "code": 0}
    loader = world.loader(num_workers=3)
    for step, _ in enumerate(loader):
        for piece in named(world, step):
            expected[piece.source] += piece.tokens
        assert loader.dataset.source_tokens == expected
    assert expected["web"] > 1_000


@pytest.mark.parametrize("stop", [0, 3, 5, 7])
def test_tokens_of_the_sources_go_on_after_a_restart_with_other_ranks(world, stop):
    undisturbed = world.loader()
    list(undisturbed)
    first = world.loader()
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    ranks = [world.loader(rank=rank, world_size=2) for rank in range(2)]
    for loader in ranks:
        loader.dataset.load_state_dict(first.dataset.state_dict(0, True))
        list(loader)
    total = ranks[0].dataset.source_tokens + ranks[1].dataset.source_tokens
    assert total == undisturbed.dataset.source_tokens
