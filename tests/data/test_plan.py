from collections import Counter

import numpy as np
import pytest

from modernbert_train.data.plan import Plan, evaluation_window
from modernbert_train.store.split import Split, write_sidecars
from tests.helpers.stores import make_store, make_tokenizer, random_documents


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> dict[str, Split]:
    folder = tmp_path_factory.mktemp("plan")
    documents = {"web": random_documents(600, 1), "code": random_documents(300, 2, median=150)}
    sources = {name: {"train": texts} for name, texts in documents.items()}
    manifest = make_store(folder / "store", make_tokenizer(folder / "tokenizer"), sources)
    return {name: of_source["train"] for name, of_source in manifest.sources.items()}


def make_plan(
    splits,
    mixture=None,
    *,
    num_streams=2,
    num_nodes=1,
    shuffle_rows=40,
    context_tokens=64,
    row_tokens=256,
    key=(17, 0),
):
    total = sum(split.num_tokens for split in splits.values())
    natural = {name: split.num_tokens / total for name, split in splits.items()}
    return Plan(
        splits,
        mixture or natural,
        num_streams=num_streams,
        num_nodes=num_nodes,
        shuffle_rows=shuffle_rows,
        context_tokens=context_tokens,
        row_tokens=row_tokens,
        key=key,
    )


def read_tokens(window, splits) -> Counter:
    """How often each token (source, document, position) is in the window."""
    first_tokens = {name: _first_token_of_documents(split) for name, split in splits.items()}
    counts: Counter = Counter()
    for block, start, tokens, document in zip(
        window.piece_block, window.piece_start, window.piece_tokens, window.piece_document, strict=True
    ):
        name, number = window.blocks[block]
        in_document = start - first_tokens[name][document] + _first_token_of_block(splits[name], number)
        counts.update((name, int(document), int(in_document + offset)) for offset in range(tokens))
    return counts


def _first_token_of_documents(split):
    lengths = np.asarray(split.lengths()).astype(int)
    return np.cumsum(lengths) - lengths


def _first_token_of_block(split, number):
    return int(np.asarray(split.blocks())[:number, 1].sum())


@pytest.mark.parametrize("context_tokens", [8, 64, 256])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_pass_trains_on_every_token_of_every_document_once(splits, context_tokens, streams):
    # With natural shares and windows as large as the store, window 0 of the streams is about a pass; the blocks at
    # its edge may belong to the pass before or after, so the counts are compared over the blocks that were read.
    plan = make_plan(splits, num_streams=streams, shuffle_rows=10**6, context_tokens=context_tokens)
    windows = [plan.window(stream, 0) for stream in range(streams)]
    read = Counter(block for window in windows for block in window.blocks)
    expected: Counter = Counter()
    for name, split in splits.items():
        lengths, first = np.asarray(split.lengths()), 0
        for number, (documents, _) in enumerate(split.blocks()):
            for document in range(first, first + documents):
                tokens = range(lengths[document])
                expected.update({(name, document, token): read[name, number] for token in tokens})
            first += documents
    assert sum((read_tokens(window, splits) for window in windows), Counter()) == +expected
    if streams == 1:
        assert set(read.values()) == {1}
        assert len(read) == sum(split.num_blocks for split in splits.values())


def test_rows_hold_whole_pieces_and_are_well_filled(splits):
    plan = make_plan(splits, num_streams=1, shuffle_rows=10**6)
    window = plan.window(0, 0)
    slots = window.piece_tokens + 2
    assert slots.max() <= plan.context_tokens
    per_row = np.add.reduceat(slots, window.row_first[:-1])
    assert per_row.max() <= plan.row_tokens
    assert per_row.sum() == window.slots_used() == slots.sum()
    assert window.slots_used() / (window.num_rows * plan.row_tokens) >= 0.995


def test_shares_hold_in_tokens(splits):
    plan = make_plan(splits, {"web": 0.2, "code": 0.8})
    tokens: Counter = Counter()
    for stream in range(2):
        for index in range(30):
            window = plan.window(stream, index)
            for block, count in zip(window.piece_block, window.piece_tokens, strict=True):
                tokens[window.blocks[block][0]] += int(count)
    assert tokens["web"] / sum(tokens.values()) == pytest.approx(0.2, abs=0.01)


def test_windows_are_a_function_of_the_arguments_alone(splits):
    plan, again = make_plan(splits), make_plan(splits)
    later = again.window(1, 3)
    for index in range(3):
        plan.window(1, index)
    for name in ("piece_block", "piece_start", "piece_tokens", "row_first"):
        assert getattr(plan.window(1, 3), name).tolist() == getattr(later, name).tolist()
    other_seed = make_plan(splits, key=(18, 0)).window(1, 3)
    assert other_seed.blocks != later.blocks


def test_a_window_may_be_empty(splits):
    """Windows of one row ask for less than a block of text: most find nothing new, and none finds anything twice."""
    plan = make_plan(splits, num_streams=1, shuffle_rows=1)
    windows = [plan.window(0, index) for index in range(50)]
    assert any(window.num_rows == 0 for window in windows)
    blocks = [block for window in windows for block in window.blocks]
    assert len(blocks) == len(set(blocks)) > 0


def test_evaluation_rows_are_fixed_and_limited(splits):
    window = evaluation_window("web", splits["web"], 64, 256, max_rows=10)
    again = evaluation_window("web", splits["web"], 64, 256, max_rows=10)
    assert window.blocks == again.blocks
    assert window.piece_start.tolist() == again.piece_start.tolist()
    assert 10 <= window.num_rows < 25
    everything = evaluation_window("web", splits["web"], 64, 256, max_rows=10**6)
    assert len(everything.blocks) == splits["web"].num_blocks


def test_empty_documents_and_blocks_of_them_alone(tmp_path):
    """As in stores of others: they take no place, and no window consists of nothing else."""
    lengths = np.array([0] * 300 + [9, 0, 30] + [0] * 500, np.uint32)
    blocks = np.array([[128, 0], [128, 0], [47, 39], [128, 0], [128, 0], [128, 0], [116, 0]], np.int64)
    split = write_sidecars(tmp_path, lengths, blocks, np.array([3, 4]))
    plan = make_plan({"web": split}, num_streams=1, shuffle_rows=1, context_tokens=16, row_tokens=16)
    windows = [plan.window(0, index) for index in range(20)]
    trained = Counter()
    for window in windows:
        for document, tokens in zip(
            window.piece_document.tolist(), window.piece_tokens.tolist(), strict=True
        ):
            trained[document] += tokens
    assert set(trained) == {300, 302}
    assert all(len(window.piece_tokens) > 0 for window in windows if window.blocks)
    assert evaluation_window("web", split, 16, 16, max_rows=10).num_rows == 3
