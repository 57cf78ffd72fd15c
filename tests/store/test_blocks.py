import numpy as np

from modernbert_train.store.blocks import cut_into_blocks, is_full


def test_blocks_are_full_at_128_documents_or_65536_tokens():
    lengths = [1] * 300 + [70_000, 5, 65_530, 6, 1, 0, 0]
    assert cut_into_blocks(np.array(lengths)).tolist() == [
        [128, 128],
        [128, 128],
        [45, 70_044],
        [3, 65_541],
        [3, 1],
    ]


def test_cutting_many_documents_agrees_with_the_rule_for_one():
    lengths = np.random.default_rng(0).lognormal(6, 2, 5_000).astype(np.uint32)
    blocks, num_documents, num_tokens = [], 0, 0
    for length in lengths.tolist():
        num_documents, num_tokens = num_documents + 1, num_tokens + length
        if is_full(num_documents, num_tokens):
            blocks.append([num_documents, num_tokens])
            num_documents = num_tokens = 0
    assert num_documents
    assert cut_into_blocks(lengths).tolist() == [*blocks, [num_documents, num_tokens]]


def test_no_documents_make_no_block():
    assert cut_into_blocks(np.array([], np.int64)).shape == (0, 2)
