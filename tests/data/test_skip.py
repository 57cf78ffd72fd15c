"""Steps and documents that are left out, and everything else, which stays as it was."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from modernbert_train.config import SkipConfig
from modernbert_train.data.batch import Row, checksum, join
from modernbert_train.data.reader import ShuffleBlockReader
from modernbert_train.data.skip import is_skipped, load_skipped_documents, without_pieces
from modernbert_train.objectives import IGNORE_INDEX, NextToken
from modernbert_train.planning.step_contents import pieces_of_stream
from tests.helpers.worlds import BATCHES, STREAMS, make_world, texts_of

PAD = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("skip"))
    with closing(world.inputs.reader):
        yield world


@pytest.fixture(scope="module")
def undisturbed(world):
    return [checksum(batch) for batch in world.loader()]


def test_pieces_of_a_row_become_padding():
    row = Row(
        input_ids=np.array([1, 11, 12, 2, 1, 4, 2, 1, 13, 4, 2, PAD], dtype=np.int32),
        segment_tokens=np.array([4, 3, 4, 1], dtype=np.int32),
        target_positions=np.array([2, 5, 9, 0], dtype=np.int32),
        labels=np.array([12, 21, 22, IGNORE_INDEX], dtype=np.int32),
        num_targets=3,
        num_tokens=11,
    )
    left = without_pieces(row, np.array([False, True, False]), PAD)
    assert left["input_ids"].tolist() == [1, 11, 12, 2, PAD, PAD, PAD, 1, 13, 4, 2, PAD]
    assert left["segment_tokens"].tolist() == [4, 3, 4, 1]
    assert left["target_positions"].tolist() == [2, 9, 0, 0]
    assert left["labels"].tolist() == [12, 22, IGNORE_INDEX, IGNORE_INDEX]
    assert (left["num_targets"], left["num_tokens"]) == (2, 8)
    nothing = without_pieces(row, np.array([True, True, True]), PAD)
    assert (nothing["num_targets"], nothing["num_tokens"]) == (0, 0)
    assert set(nothing["input_ids"].tolist()) == {PAD}


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize(
    "skipped",
    [(range(2, 3),), (range(1),), (range(1, 4),), (range(5, 8),), (range(3, 4), range(5, 6), range(7, 9))],
)
def test_other_steps_keep_their_batches(world, undisturbed, skipped, num_workers):
    loader = world.loader(skipped_steps=skipped, num_workers=num_workers)
    found = {}
    for batch in loader:
        found[loader.dataset.step - 1] = checksum(batch)
    kept = [step for step in range(len(BATCHES)) if not any(step in part for part in skipped)]
    assert found == {step: undisturbed[step] for step in kept}


@pytest.mark.parametrize("stop", range(len(BATCHES)))
def test_a_restart_before_within_or_behind_skipped_steps(world, undisturbed, stop):
    """The list is made after the stop: the checkpoint may lie within the steps that are skipped from then on."""
    first = world.loader()
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    state = first.dataset.state_dict(0, True)
    ranks = [
        world.loader(rank=rank, world_size=2, skipped_steps=(range(2, 4), range(6, 8))) for rank in range(2)
    ]
    for loader in ranks:
        loader.dataset.load_state_dict(state)
    found = {}
    for parts in zip(*ranks, strict=True):
        found[ranks[0].dataset.step - 1] = checksum(join(parts))
    kept = [step for step in range(stop, len(BATCHES)) if step not in (2, 3, 6, 7)]
    assert found == {step: undisturbed[step] for step in kept}


def test_a_skipped_step_is_not_read(world, monkeypatch):
    made = []
    original = ShuffleBlockReader.row

    def counting(self, *arguments):
        made.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(ShuffleBlockReader, "row", counting)
    list(world.loader(skipped_steps=(range(1, 5), range(6, 9))))
    assert len(made) == BATCHES[0] + BATCHES[5] + BATCHES[9]


def test_a_skipped_document_is_gone_and_all_others_are_as_they_were(world):
    skipped = load_skipped_documents(SkipConfig(documents=["code:3", "web:10-19", "web:21"]), world.train)
    loader = world.loader(skipped_documents=skipped, num_workers=2)
    gone = 0
    for step, (whole, left) in enumerate(zip(world.loader(), loader, strict=True)):
        phase, passed_over = world.phases()[step >= 5], sum(BATCHES[5 * (step >= 5) : step]) // STREAMS
        pieces = [
            piece
            for stream in range(STREAMS)
            for piece in pieces_of_stream(phase.plan, stream, (0, 0), passed_over, BATCHES[step] // STREAMS)
        ]
        kept = [not is_skipped(skipped, piece.source, piece.document) for piece in pieces]
        gone += kept.count(False)
        texts = list(texts_of(whole, world.tokenizer))
        assert list(texts_of(left, world.tokenizer)) == [
            text for text, stays in zip(texts, kept, strict=True) if stays
        ]
        # What is not padding now is what it was: tokens, masks and segments.
        assert torch.equal(left["segment_tokens"], whole["segment_tokens"])
        same = left["input_ids"] == whole["input_ids"]
        assert (same | (left["input_ids"] == world.tokenizer.pad_id)).all()
        assert int((~same).sum()) == int((whole["num_tokens"] - left["num_tokens"]).sum())
        for row in range(len(whole["labels"])):
            before = masks_of(whole, row)
            assert masks_of(left, row) == {at: label for at, label in before.items() if same[row, at]}
            assert len(masks_of(left, row)) == int(left["num_targets"][row])
    assert gone > 10
    # Their tokens are not counted either.
    whole_tokens = world.loader()
    list(whole_tokens)
    assert loader.dataset.source_tokens["web"] < whole_tokens.dataset.source_tokens["web"]


def masks_of(batch, row):
    labels, positions = batch["labels"][row].tolist(), batch["target_positions"][row].tolist()
    return {at: label for at, label in zip(positions, labels, strict=True) if label != IGNORE_INDEX}


def test_the_fingerprint_does_not_hang_on_what_is_skipped(world):
    state = world.loader().dataset.state_dict(0, True)
    other = world.loader(
        skipped_steps=(range(2),),
        skipped_documents=load_skipped_documents(SkipConfig(documents=["web:1"]), world.train),
    )
    other.dataset.load_state_dict(state)


def test_a_file_of_documents(world):
    Path("bad.txt").write_text("# found by the contamination check\nweb:5\n\n web:3-4  # two\ncode:7\n")
    found = load_skipped_documents(SkipConfig(documents=["code:9"], documents_file="bad.txt"), world.train)
    assert {source: ranges.tolist() for source, ranges in found.items()} == {
        "web": [[3, 6]],
        "code": [[7, 8], [9, 10]],
    }
    assert [is_skipped(found, "web", document) for document in (2, 3, 5, 6)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("web:60", r"has 'web:60': web has 60 documents for training, counted from 0: the last is web:59"),
        ("web:50-60", r"has 'web:50-60': web has 60 documents for training"),
        ("wab:1", r"has 'wab:1': there is no source 'wab' in data.sources; did you mean web\?"),
        ("17", r"has '17': expected a source and a number such as web:17"),
    ],
)
def test_documents_that_are_not_there(world, line, told):
    Path("bad.txt").write_text(f"web:1\n{line}\n")
    with pytest.raises(ValueError, match=rf"^bad.txt, line 2, {told}"):
        load_skipped_documents(SkipConfig(documents_file="bad.txt"), world.train)
    with pytest.raises(ValueError, match=rf"^data.skip.documents {told}"):
        load_skipped_documents(SkipConfig(documents=[line]), world.train)


def test_a_file_of_documents_that_is_not_there(world):
    with pytest.raises(
        ValueError, match=r"data.skip.documents_file is gone.txt, which cannot be read .*; name a"
    ):
        load_skipped_documents(SkipConfig(documents_file="gone.txt"), world.train)


def test_next_tokens_of_other_documents_stay(world):
    """And those of a document that is left out are not asked for."""
    whole, left = (
        next(iter(world.loader(first=NextToken(), skipped_documents=skipped)))
        for skipped in (None, {"web": np.array([[0, 30]])})
    )
    assert int(left["num_targets"].sum()) < int(whole["num_targets"].sum())
    for row, num in enumerate(left["num_targets"].tolist()):
        positions, labels = left["target_positions"][row, :num], left["labels"][row, :num]
        assert PAD not in labels
        assert torch.equal(left["input_ids"][row][positions + 1], labels)
        assert torch.equal(whole["input_ids"][row][positions], left["input_ids"][row][positions])
        kept = int((left["input_ids"][row] != PAD).sum())
        assert num == kept - int((left["input_ids"][row] == world.tokenizer.sep_id).sum())
