import numpy as np
import pytest
import torch

from modernbert_train.data.batch import Row, checksum, collate, join, micro_batches, padding_segments

PAD = 3


def make_row(number: int, segments: list[int], num_targets: int = 2) -> Row:
    """10 slots, ids number * 100 + slot; context 4; up to 3 masked."""
    used = sum(segments)
    ids = np.arange(number * 100, number * 100 + 10, dtype=np.int32)
    ids[used:] = PAD
    return Row(
        input_ids=ids,
        segment_tokens=np.concatenate([np.array(segments, dtype=np.int32), padding_segments(10 - used, 4)]),
        target_positions=np.array([1, 2, 0], dtype=np.int32),
        labels=np.array([7, 8, -100], dtype=np.int32),
        num_targets=num_targets,
        num_tokens=used,
    )


def make_batch(count: int = 3):
    segments = [[4, 4, 2], [3, 3], [1, 4, 4]]
    return collate([make_row(number, segments[number]) for number in range(count)], context_tokens=4)


@pytest.mark.parametrize(("tokens", "expected"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_padding_is_cut_into_segments(tokens, expected):
    assert padding_segments(tokens, 4).tolist() == expected


def test_a_micro_batch_by_hand():
    (micro,) = micro_batches(make_batch(2), rows=2, pad_id=PAD)
    assert micro["input_ids"].tolist() == [*range(10), 100, 101, 102, 103, 104, 105, PAD, PAD, PAD, PAD]
    assert micro["cu_seqlens"].tolist() == [0, 4, 8, 10, 13, 16, 20]
    assert micro["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    assert micro["target_positions"].tolist() == [1, 2, 0, 11, 12, 10]
    assert micro["labels"].tolist() == [7, 8, -100, 7, 8, -100]
    assert (micro["num_targets"], micro["num_tokens"], micro["num_rows"], micro["max_seqlen"]) == (
        4,
        16,
        2,
        4,
    )
    assert micro["cu_seqlens"].dtype == torch.int32


def test_the_last_micro_batch_is_filled_with_rows_of_padding():
    first, second = micro_batches(make_batch(3), rows=2, pad_id=PAD)
    assert first["num_tokens"] + second["num_tokens"] == 10 + 6 + 9
    assert second["input_ids"][10:].tolist() == [PAD] * 10
    assert second["labels"][3:].tolist() == [-100] * 3
    assert second["cu_seqlens"].tolist() == [0, 1, 5, 9, 10, 14, 18, 20]
    assert second["num_targets"] == 2
    assert all(a.shape == b.shape for a, b in zip(first.values(), second.values(), strict=True)
               if isinstance(a, torch.Tensor) and len(a) in (6, 20))  # fmt: skip


def test_a_rank_with_fewer_rows_does_as_many_micro_batches():
    batch = make_batch(3)
    own = micro_batches(batch, rows=2, pad_id=PAD)
    filled = micro_batches(batch, rows=2, pad_id=PAD, most_rows=7)
    assert len(filled) == 4
    for mine, same in zip(own, filled, strict=False):
        assert all(np.array_equal(mine[name], same[name]) for name in mine)
    for padding in filled[2:]:
        assert padding["input_ids"].tolist() == [PAD] * 20
        assert padding["labels"].tolist() == [-100] * 6
        assert (padding["num_targets"], padding["num_tokens"], padding["num_rows"]) == (0, 0, 2)


def test_every_token_belongs_to_a_segment_no_longer_than_the_context():
    for rows in (1, 2, 3):
        for micro in micro_batches(make_batch(3), rows, PAD):
            cu_seqlens = micro["cu_seqlens"]
            assert cu_seqlens[0] == 0
            assert cu_seqlens[-1] == len(micro["input_ids"])
            assert 1 <= cu_seqlens.diff().min() <= cu_seqlens.diff().max() <= micro["max_seqlen"]


def test_join_is_collating_together():
    rows = [make_row(number, [4, 4]) for number in range(3)]
    joined = join([collate(rows[:1], 4), collate(rows[1:], 4)])
    together = collate(rows, 4)
    assert all(torch.equal(joined[name], together[name]) for name in joined if name != "max_seqlen")


def test_checksum_sees_every_field_and_no_order_of_rows():
    batch = make_batch(3)
    assert checksum(batch) == checksum(make_batch(3))
    parts = [collate([make_row(number, [4, 4])], 4) for number in range(2)]
    assert checksum(join(parts)) == checksum(join(parts[::-1])) == sum(map(checksum, parts))
    for name in ("input_ids", "labels", "target_positions"):
        changed = make_batch(3)
        changed[name][1, 1] += 1
        assert checksum(changed) != checksum(batch)
    assert checksum(collate([make_row(0, [4, 3])], 4)) != checksum(collate([make_row(0, [3, 4])], 4))
