from collections import Counter

import numpy as np
import pytest

from modernbert_train.data.plan import Plan, evaluation_shuffle_block
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


def read_tokens(shuffle_block, splits) -> Counter:
    """How often each token (source, document, position) is in the shuffle block."""
    first_tokens = {name: _first_token_of_documents(split) for name, split in splits.items()}
    counts: Counter = Counter()
    for block, start, tokens, document in zip(
        shuffle_block.piece_block,
        shuffle_block.piece_start,
        shuffle_block.piece_tokens,
        shuffle_block.piece_document,
        strict=True,
    ):
        name, number = shuffle_block.blocks[block]
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
def test_an_epoch_trains_on_every_token_of_every_document_once(splits, context_tokens, streams):
    # With natural shares and shuffle blocks as large as the store, the first shuffle blocks of all streams are about an
    # epoch. The blocks at the edge may belong to another one, so the counts are compared over the blocks read.
    plan = make_plan(splits, num_streams=streams, shuffle_rows=10**6, context_tokens=context_tokens)
    shuffle_blocks = [plan.shuffle_block(sequence, 0) for sequence in range(plan.num_sequences)]
    read = Counter(block for shuffle_block in shuffle_blocks for block in shuffle_block.blocks)
    expected: Counter = Counter()
    for name, split in splits.items():
        lengths, first = np.asarray(split.lengths()), 0
        for number, (documents, _) in enumerate(split.blocks()):
            for document in range(first, first + documents):
                tokens = range(lengths[document])
                expected.update({(name, document, token): read[name, number] for token in tokens})
            first += documents
    assert (
        sum((read_tokens(shuffle_block, splits) for shuffle_block in shuffle_blocks), Counter()) == +expected
    )
    if streams == 1:
        assert set(read.values()) == {1}
        assert len(read) == sum(split.num_blocks for split in splits.values())


def test_rows_hold_whole_pieces_and_are_well_filled(splits):
    plan = make_plan(splits, num_streams=1, shuffle_rows=10**6)
    shuffle_block = plan.shuffle_block(0, 0)
    slots = shuffle_block.piece_tokens + 2
    assert slots.max() <= plan.context_tokens
    per_row = np.add.reduceat(slots, shuffle_block.row_first[:-1])
    assert per_row.max() <= plan.row_tokens
    assert per_row.sum() == shuffle_block.slots_used() == slots.sum()
    assert shuffle_block.slots_used() / (shuffle_block.num_rows * plan.row_tokens) >= 0.995


def test_shares_hold_in_tokens(splits):
    plan = make_plan(splits, {"web": 0.2, "code": 0.8})
    tokens: Counter = Counter()
    for sequence in range(plan.num_sequences):
        for index in range(30):
            shuffle_block = plan.shuffle_block(sequence, index)
            for block, count in zip(shuffle_block.piece_block, shuffle_block.piece_tokens, strict=True):
                tokens[shuffle_block.blocks[block][0]] += int(count)
    assert tokens["web"] / sum(tokens.values()) == pytest.approx(0.2, abs=0.01)


def test_shuffle_blocks_are_a_function_of_the_arguments_alone(splits):
    plan, again = make_plan(splits), make_plan(splits)
    later = again.shuffle_block(1, 3)
    for index in range(3):
        plan.shuffle_block(1, index)
    for name in ("piece_block", "piece_start", "piece_tokens", "row_first"):
        assert getattr(plan.shuffle_block(1, 3), name).tolist() == getattr(later, name).tolist()
    other_seed = make_plan(splits, key=(18, 0)).shuffle_block(1, 3)
    assert other_seed.blocks != later.blocks


def test_evaluation_rows_are_fixed_and_limited(splits):
    shuffle_block = evaluation_shuffle_block("web", splits["web"], 64, 256, max_rows=10)
    again = evaluation_shuffle_block("web", splits["web"], 64, 256, max_rows=10)
    assert shuffle_block.blocks == again.blocks
    assert shuffle_block.piece_start.tolist() == again.piece_start.tolist()
    assert 10 <= shuffle_block.num_rows < 25
    everything = evaluation_shuffle_block("web", splits["web"], 64, 256, max_rows=10**6)
    assert len(everything.blocks) == splits["web"].num_blocks


def test_empty_documents_and_blocks_of_them_alone(tmp_path):
    """As in external stores: they take no space, and no shuffle block consists of nothing else."""
    lengths = np.array([0] * 300 + [9, 0, 30] + [0] * 500, np.uint32)
    blocks = np.array([[128, 0], [128, 0], [47, 39], [128, 0], [128, 0], [128, 0], [116, 0]], np.int64)
    split = write_sidecars(tmp_path, lengths, blocks, np.array([3, 4]))
    plan = make_plan({"web": split}, num_streams=1, shuffle_rows=1, context_tokens=16, row_tokens=16)
    shuffle_blocks = [plan.shuffle_block(0, index) for index in range(20)]
    trained = Counter()
    for shuffle_block in shuffle_blocks:
        for document, tokens in zip(
            shuffle_block.piece_document.tolist(), shuffle_block.piece_tokens.tolist(), strict=True
        ):
            trained[document] += tokens
    assert set(trained) == {300, 302}
    assert all(
        len(shuffle_block.piece_tokens) > 0 for shuffle_block in shuffle_blocks if shuffle_block.blocks
    )
    assert evaluation_shuffle_block("web", split, 16, 16, max_rows=10).num_rows == 3
