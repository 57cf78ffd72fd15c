"""Every stream gets rows from any store, at a bounded cost, and documents of small stores are read equally often."""

from collections import Counter

import numpy as np
import pytest

from modernbert_train.data.plan import Plan
from modernbert_train.store.split import Split
from tests.helpers.splits import make_split


def make_plan(sources: dict[str, Split], mixture: dict[str, float], **options: int) -> Plan:
    values = {
        "num_streams": 64,
        "num_nodes": 1,
        "shuffle_rows": 2_048,
        "context_tokens": 128,
        "row_tokens": 512,
    }
    return Plan(sources, mixture, **{**values, **options}, key=(17, "phase"))


def read(plan: Plan, num_rows: int) -> tuple[dict[str, Counter[tuple[int, int]]], int]:
    """Read the first rows of every sequence.

    Args:
        plan: The plan.
        num_rows: Rows of each sequence.

    Returns:
        Source -> (document, first token in its block) -> how often this piece was read; and the number of shuffle
        blocks of the sequence that took the most.
    """
    times: dict[str, Counter[tuple[int, int]]] = {name: Counter() for name in plan.sources}
    positions = dict.fromkeys(range(plan.num_sequences), (0, 0))
    for _ in range(num_rows):
        for sequence, position in positions.items():
            index, end = positions[sequence] = plan.advance(sequence, position, 1)
            shuffle_block = plan.shuffle_block(sequence, index)
            pieces = shuffle_block.pieces(end - 1)
            for block, document, start in zip(
                shuffle_block.piece_block[pieces].tolist(),
                shuffle_block.piece_document[pieces].tolist(),
                shuffle_block.piece_start[pieces].tolist(),
                strict=True,
            ):
                times[shuffle_block.blocks[block][0]][document, start] += 1
    return times, 1 + max(index for index, _ in positions.values())


def spread(plan: Plan, name: str, times: Counter[tuple[int, int]]) -> int:
    """Return how much more often the most frequent piece of a source was read than the least frequent one."""
    lengths = np.asarray(plan.sources[name].lengths()).astype(int)
    num_pieces = int((-(-lengths // (plan.context_tokens - 2))).sum())
    return max(times.values(), default=0) - (min(times.values()) if len(times) == num_pieces else 0)


# Stores of which some streams, or all, got no row while each stream had a sequence of its own.
FIXED_LENGTHS = {
    "64 of 126": [126] * 64,
    "256 of 128": [128] * 256,
    "512 of 1,024": [1_024] * 512,
    "2,048 of 510": [510] * 2_048,
}
SINGLE = {
    **FIXED_LENGTHS,
    "one of 6,400": [6_400],
    "one of a token": [1],
    "301 of 62,912 tokens": [209] * 300 + [212],
}


@pytest.mark.parametrize("lengths", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("num_streams", [1, 4, 64])
def test_a_small_store_yields_and_is_read_evenly(lengths, num_streams):
    plan = make_plan({"web": make_split(lengths)}, {"web": 1.0}, num_streams=num_streams)
    for num_rows in (num_streams, 3 * num_streams):
        times, shuffle_blocks = read(plan, num_rows)
        assert spread(plan, "web", times["web"]) <= 1
        assert shuffle_blocks <= num_rows


def test_two_sources_of_one_size_yield():
    plan = make_plan(
        {"web": make_split([3_200]), "code": make_split([3_200])}, {"web": 0.5, "code": 0.5}, num_streams=4
    )
    times, _ = read(plan, 100)
    assert all(spread(plan, name, of_source) <= 1 for name, of_source in times.items())


@pytest.mark.parametrize(
    "sources", [{"web": 17 * [300], "code": 40 * [91]}, {"web": 400 * [99], "code": 30 * [300]}]
)
def test_a_mixture_of_small_sources_is_read_evenly_after_every_row(sources):
    splits = {name: make_split(lengths, block_documents=2) for name, lengths in sources.items()}
    plan = make_plan(splits, {"web": 0.7, "code": 0.3}, num_streams=8, shuffle_rows=8, row_tokens=128)
    assert plan.num_sequences == 1
    for num_rows in range(1, 120):
        times, _ = read(plan, num_rows)
        assert [spread(plan, name, of_source) for name, of_source in times.items()] <= [1, 1], num_rows


def test_a_small_source_beside_a_large_one_does_not_take_away_its_sequences():
    """Sources of little weight do not decide how streams read."""
    large = make_split([100] * 20_000, block_documents=8, num_shards=64)
    splits = {"large": large, "small": make_split([50] * 10)}
    plan = make_plan(splits, {"large": 0.999, "small": 0.001}, num_streams=16, num_nodes=2)
    assert (plan.num_sequences, plan.num_nodes) == (16, 2)
    assert make_plan(splits, {"large": 0.001, "small": 0.999}, num_streams=16, num_nodes=2).num_sequences == 1


def test_a_source_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"source web .* has no tokens; leave it out of the mixture"):
        make_plan({"web": make_split([0, 0])}, {"web": 1.0})


def test_a_search_for_rows_has_a_bound(monkeypatch):
    plan = make_plan({"web": make_split([10])}, {"web": 1.0})
    empty = plan._plan_shuffle_block(0, 0)
    monkeypatch.setattr(type(empty), "num_rows", 0)
    with pytest.raises(
        ValueError, match=r"1001 shuffle blocks of sequence 0 .* have no text; .*raise data.shuffle_rows"
    ):
        plan.advance(0, (0, 0), 1)


def random_plan(random: np.random.Generator) -> Plan:
    """Return a plan of one to five small sources: few or many documents, of equal, similar or very different length."""
    num_streams = int(random.choice([1, 2, 3, 4, 8, 16, 64]))
    num_nodes = int(random.choice([nodes for nodes in (1, 1, 2, 2, 4) if num_streams % nodes == 0]))
    sources = {}
    for number in range(random.choice([1, 1, 2, 3, 5])):
        count = int(random.integers(1, random.choice([3, 6, 60, 400])))
        lengths = [
            np.full(count, random.integers(1, 300)),
            np.clip(random.lognormal(4, 1, count), 1, 3_000).astype(int),
            np.maximum(random.integers(0, 50, count), np.arange(count) == 0),
        ][random.integers(3)]
        sources[f"source {number}"] = make_split(
            lengths,
            block_documents=int(random.choice([1, 1, 3, 8, 128])),
            num_shards=int(random.choice([1, 2, 20, 40])),
        )
    sizes = [float(split.num_tokens) for split in sources.values()]
    weights = np.array(sizes) if random.random() < 0.5 else random.random(len(sources)) ** 2 + 0.01
    context_tokens = int(random.choice([8, 32, 128]))
    return make_plan(
        sources,
        dict(zip(sources, (weights / weights.sum()).tolist(), strict=True)),
        num_streams=num_streams,
        num_nodes=num_nodes,
        shuffle_rows=int(random.choice([1, 4, 32, 2_048])),
        context_tokens=context_tokens,
        row_tokens=context_tokens * int(random.choice([1, 2, 4])),
    )


@pytest.mark.parametrize(
    "seeds",
    [
        range(200),
        *(
            pytest.param(range(first, first + 10_000), marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])
            for first in range(200, 100_200, 10_000)
        ),
    ],
    ids=str,
)
def test_any_small_store_yields_and_is_read_evenly(seeds):
    layouts: Counter[str] = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        plan = random_plan(random)
        num_rows = int(random.integers(1, 200))
        times, shuffle_blocks = read(plan, num_rows)
        # The work for a row is bounded: never more than an empty shuffle block between two with rows.
        assert shuffle_blocks <= 2 * num_rows, seed
        layout = (
            "one" if plan.num_sequences == 1 else "node" if plan.num_sequences == plan.num_nodes else "stream"
        )
        layouts[layout] += 1
        for name, split in plan.sources.items():
            # Epochs of the source in the shuffle blocks that are open at once.
            epochs = plan.num_sequences * plan.quota[name] / split.num_tokens
            if layout == "one":
                # An epoch that is shorter than a shuffle block is read several times within it, in any order.
                assert spread(plan, name, times[name]) <= (1 if epochs < 1.000001 else 1 + 2 * epochs), (
                    seed,
                    name,
                )
            elif layout == "stream" and epochs <= 1:
                assert spread(plan, name, times[name]) <= 4, (seed, layout, name)
    assert len(layouts) == 3
