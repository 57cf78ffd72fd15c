import multiprocessing
import os
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from modernbert_train.data.batch import checksum, collate, join
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.data.plan import PhaseRows, Plan, fingerprint_at
from modernbert_train.data.reader import SequenceReader, ShuffleBlockReader, evaluation_batches
from modernbert_train.objectives import MaskedLM, NextToken
from modernbert_train.store.reading import BlockReader
from tests.helpers.stores import make_store, make_tokenizer, random_documents
from tests.helpers.worlds import MASKED, inputs_of, make_world
from tests.reference.masking import next_tokens

STREAMS = 48  # so that 4 ranks have 12 each, and each of 4 workers 3
NODES = 2
NUM_STEPS = 12


# How streams read sequences -> (number of sequences, bytes of a shard, documents of web, documents of a block)
LAYOUTS = {
    "all streams share a sequence": (1, 1 << 26, 250, 4),
    "the streams of a node share a sequence": (NODES, 2_000, 250, 4),
    "each stream has a sequence": (STREAMS, 8_000, 2_500, 1),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    tokenizer = make_tokenizer(folder / "tokenizer")
    num_sequences, shard_bytes, num_documents, block_documents = LAYOUTS[request.param]
    sources = {
        "web": {"train": random_documents(num_documents, 1), "valid": random_documents(40, 3)},
        "code": {"train": random_documents(80, 2, median=100)},
    }
    manifest = make_store(
        folder / "store", tokenizer, sources, block_documents=block_documents, shard_bytes=shard_bytes
    )
    assert make_plan(manifest).num_sequences == num_sequences
    inputs = inputs_of(manifest, tokenizer)
    with closing(inputs.reader):
        yield sources, manifest, inputs


def make_plan(manifest, context_tokens=32, phase=0, seed=17):
    splits = {name: splits["train"] for name, splits in manifest.sources.items()}
    return Plan(
        splits,
        {"web": 0.6, "code": 0.4},
        num_streams=STREAMS,
        num_nodes=NODES,
        shuffle_rows=8,
        context_tokens=context_tokens,
        row_tokens=64,
        key=(seed, phase),
    )


def make_loader(world, *, rank=0, world_size=1, num_workers=0, seed=17) -> PlannedLoader:
    """Two phases, contexts 32 and 64, the second with a batch-size ramp."""
    _, manifest, inputs = world
    phases = [
        PhaseRows(make_plan(manifest, 32, 0, seed), MaskedLM(0.3), ((5, 96),)),
        PhaseRows(make_plan(manifest, 64, 1, seed), MaskedLM(0.15), ((3, 48), (4, 144))),
    ]
    rows = PlannedRows(phases, inputs, rank=rank, world_size=world_size)
    return PlannedLoader(rows, num_workers=num_workers)


def checksums(loader) -> list[int]:
    return [checksum(batch) for batch in loader]


@pytest.fixture(scope="module")
def undisturbed(world):
    return checksums(make_loader(world))


def test_batches_follow_the_plan(world, undisturbed):
    assert len(undisturbed) == len(set(undisturbed)) == NUM_STEPS
    batches = list(make_loader(world))
    assert [len(batch["input_ids"]) for batch in batches] == [96] * 5 + [48] * 3 + [144] * 4
    assert [batch["max_seqlen"] for batch in batches] == [32] * 5 + [64] * 7


def test_the_run_goes_over_the_ends_of_passes_and_slices(world):
    """Else the tests below would show less than they say."""
    manifest = world[1]
    if make_plan(manifest).num_sequences == STREAMS:
        pytest.skip("large sources: the seams of their epochs are tested in test_plan.py")
    content_tokens = sum(
        int(batch["num_tokens"].sum()) for batch in list(make_loader(world))[5:]
    )  # of phase 1
    web, code = (manifest.sources[name]["train"].num_tokens for name in ("web", "code"))
    assert 0.6 * content_tokens > 1.1 * web
    assert 0.4 * content_tokens > 1.1 * code


@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [(1, 1), (1, 4), (2, 0), (2, 4), (3, 1), (4, 0), (4, 1), (5, 0), (7, 2)],
)
def test_ranks_and_workers_do_not_matter(world, undisturbed, world_size, num_workers):
    ranks = [
        make_loader(world, rank=rank, world_size=world_size, num_workers=num_workers)
        for rank in range(world_size)
    ]
    assert [checksum(join(parts)) for parts in zip(*ranks, strict=True)] == undisturbed


@pytest.mark.parametrize("stop", range(NUM_STEPS + 1))
def test_stopping_anywhere_does_not_matter(world, undisturbed, stop):
    first = make_loader(world, num_workers=1)  # reads ahead of the position that is saved
    batches = iter(first)
    before = [checksum(next(batches)) for _ in range(stop)]
    state = first.dataset.state_dict(num_samples=-1, from_beginning=True)
    second = make_loader(world)
    second.dataset.load_state_dict(state)
    assert before + checksums(second) == undisturbed


@pytest.mark.parametrize(
    ("before", "after"), [((3, 0), (2, 1)), ((1, 4), (5, 0)), ((7, 0), (2, 1)), ((4, 1), (1, 0))]
)
def test_another_number_of_ranks_and_workers_goes_on_where_the_first_stopped(
    world, undisturbed, before, after
):
    def loaders(world_size, num_workers):
        return [
            make_loader(world, rank=rank, world_size=world_size, num_workers=num_workers)
            for rank in range(world_size)
        ]

    ranks = loaders(*before)
    batches = [iter(loader) for loader in ranks]
    checksums_before = [checksum(join([next(batch) for batch in batches])) for _ in range(7)]
    positions = {}
    for loader in ranks:
        positions |= loader.dataset.positions
    state = {**ranks[0].dataset.state_dict(-1, True), "positions": positions}
    ranks = loaders(*after)
    for loader in ranks:
        loader.dataset.load_state_dict(state)
    checksums_after = [checksum(join(parts)) for parts in zip(*ranks, strict=True)]
    assert checksums_before + checksums_after == undisturbed


def test_a_restart_reads_no_consumed_document_again(world, monkeypatch):
    """Rows, hence documents, are assembled from the saved position on, none before it."""
    _, manifest, inputs = world
    phase = PhaseRows(make_plan(manifest), MaskedLM(0.3), ())
    undisturbed = SequenceReader(phase, inputs, [3], (0, 0))
    seen = []
    for _ in range(10):
        undisturbed.next_rows(1)
        seen.append(undisturbed.position)
    assert len(set(seen)) == 10
    made = []
    original = ShuffleBlockReader.row

    def counting(self, index):
        made.append(index)
        return original(self, index)

    restarted = SequenceReader(phase, inputs, [3], seen[4])
    monkeypatch.setattr(ShuffleBlockReader, "row", counting)
    for position in seen[5:]:
        restarted.next_rows(1)
        assert restarted.position == position
    assert len(made) == 5


def test_a_checkpoint_of_other_data_is_refused(world):
    state = make_loader(world).dataset.state_dict(-1, True)
    with pytest.raises(
        ValueError, match="other data, mixture, num_streams, context, objective, mask rate or seed"
    ):
        make_loader(world, seed=18).dataset.load_state_dict(state)


def test_rows_hold_the_documents(world):
    """A piece in a row is [CLS], a stretch of one document, [SEP]; a shuffle block has whole documents."""
    sources, manifest, inputs = world
    tokenizer = inputs.tokenizer
    plan = make_plan(manifest)
    shuffle_block = plan.shuffle_block(0, 0)
    rows = ShuffleBlockReader(shuffle_block, plan.sources, inputs)
    found: dict[tuple[str, int], list[int]] = {}
    for index in range(shuffle_block.num_rows):
        ids, segments, used = rows.row(index)
        pieces = range(*shuffle_block.pieces(index).indices(len(shuffle_block.piece_tokens)))
        assert (ids[used:] == tokenizer.pad_id).all()
        assert segments.sum() == 64
        at = 0
        for piece in pieces:
            tokens = ids[at : at + shuffle_block.piece_tokens[piece] + 2].tolist()
            at += len(tokens)
            assert (tokens[0], tokens[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
            key = (
                shuffle_block.blocks[shuffle_block.piece_block[piece]][0],
                int(shuffle_block.piece_document[piece]),
            )
            found.setdefault(key, []).append((int(shuffle_block.piece_start[piece]), tokens[1:-1]))
        assert at == used
    assert len(found) > 3
    for (source, document), pieces in found.items():
        whole = [token for _, part in sorted(pieces) for token in part]
        assert whole == sources[source]["train"][document]


def test_workers_send_arrays_not_tensors(world):
    """A tensor would need a connection to its worker, which is slow, and fails in its own way if that one is killed."""
    loader = make_loader(world, num_workers=1)
    items = super(PlannedLoader, loader).__iter__()
    values = next(items)["batch"].values()
    items._shutdown_workers()
    assert {type(value) for value in values} == {np.ndarray, int}


def test_a_worker_that_is_killed_takes_the_others_with_it(world):
    before = set(multiprocessing.active_children())
    batches = iter(make_loader(world, num_workers=2))
    next(batches)
    first, second = set(multiprocessing.active_children()) - before
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker") as error:
        list(batches)
    assert not second.is_alive()  # while the error, and with it the iterator, is still held
    assert error.value.__traceback__ is not None


def test_a_stopped_worker_is_ended(world):
    before = set(multiprocessing.active_children())
    loader = make_loader(world, num_workers=2)
    next(iter(loader))
    workers = set(multiprocessing.active_children()) - before
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 5
    assert not any(worker.is_alive() for worker in workers)


def test_evaluation_masks_are_fixed_and_shared_out(world):
    _, _, inputs = world
    settings = {"context_tokens": 64, "row_tokens": 256, "max_rows": 6}
    objective = MaskedLM(0.15)
    whole = list(evaluation_batches("web", inputs, objective, **settings))
    again = list(evaluation_batches("web", inputs, objective, **settings))
    assert len(whole) == 6
    assert all(a["input_ids"].tolist() == b["input_ids"].tolist() for a, b in zip(whole, again, strict=True))
    odd = list(evaluation_batches("web", inputs, objective, **settings, rank=1, world_size=2))
    assert [batch["labels"].tolist() for batch in odd] == [batch["labels"].tolist() for batch in whole[1::2]]


def test_a_truncated_shard_is_named(world, tmp_path):
    sources, _, whole = world
    manifest = make_store(tmp_path / "store", whole.tokenizer, sources, shard_bytes=4_000)
    shard = sorted((tmp_path / "store" / "web" / "train").glob("shard.*.mds"))[1]
    shard.write_bytes(shard.read_bytes()[:500])
    phases = [PhaseRows(make_plan(manifest), MaskedLM(0.3), ((60, 96),))]
    inputs = inputs_of(manifest, whole.tokenizer)
    with closing(inputs.reader):
        rows = PlannedRows(phases, inputs, rank=0, world_size=1)
        with pytest.raises(ValueError, match=r"shard 1 of .*web/train cannot be read.*data_prep verify"):
            list(PlannedLoader(rows, num_workers=0))


def shared_memory_handles() -> list[str]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(target for link in links if (target := os.readlink(link)).startswith("/dev/shm/"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at the file handles of Linux")
def test_a_reader_holds_no_shared_memory(world):
    manifest = world[1]
    before = shared_memory_handles(), os.listdir("/dev/shm")
    with closing(BlockReader(manifest.sources["web"].values())) as reader:
        reader.read(manifest.sources["web"]["train"], 0)
        assert (shared_memory_handles(), os.listdir("/dev/shm")) == before


def test_collate_of_one_row_has_its_shapes(world):
    _, manifest, inputs = world
    stream = SequenceReader(PhaseRows(make_plan(manifest), MaskedLM(0.3), ()), inputs, [0], (0, 0))
    batch = collate(stream.next_rows(1), 32)
    assert batch["input_ids"].shape == (1, 64)
    assert batch["labels"].shape == batch["target_positions"].shape == (1, 20)
    assert int(batch["num_tokens"]) <= 64


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_phase_of_next_tokens_reads_the_same_text_and_masks_nothing(tmp_path, num_workers):
    """Its shapes are constant; the phase after it is what it is without."""
    small = make_world(tmp_path)
    with closing(small.inputs.reader):
        masked = list(small.loader())
        loader = small.loader(first=NextToken(), num_workers=num_workers)
        # Saved checkpoints hold these.
        fingerprints = [
            fingerprint_at(small.phases(one), 1, small.inputs.masking) for one in (MASKED, NextToken())
        ]
        assert fingerprints == ["a64bdd56710fd85a", "b382989f4ad83a01"]
        for step, (batch, other) in enumerate(zip(loader, masked, strict=True)):
            if step >= 5:
                assert checksum(batch) == checksum(other)
                continue
            assert torch.equal(batch["segment_tokens"], other["segment_tokens"])
            assert batch["labels"].shape == batch["target_positions"].shape == batch["input_ids"].shape
            segments = torch.split(batch["segment_tokens"], batch["num_segments"].tolist())
            for row, of_row in enumerate(segments):
                unmasked, hidden = other["input_ids"][row].clone(), int(other["num_targets"][row])
                unmasked[other["target_positions"][row, :hidden]] = other["labels"][row, :hidden]
                assert torch.equal(batch["input_ids"][row], unmasked)
                ids, num = batch["input_ids"][row].tolist(), int(batch["num_targets"][row])
                found = zip(
                    batch["target_positions"][row].tolist(), batch["labels"][row].tolist(), strict=True
                )
                expected = next_tokens(ids, of_row.tolist(), int(batch["num_tokens"][row]))
                assert list(found)[:num] == expected
                assert len(expected) > 0
