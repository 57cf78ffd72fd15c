"""The rules by which a recipe is chosen."""

import itertools

import pytest

from modernbert_train.config.architecture import num_hidden_weights, num_parameters
from modernbert_train.recipe.facts import Source, Text, Weights
from modernbert_train.recipe.rules import choose, choose_shares
from modernbert_train.recipe.speed import SIZES, h100_tokens_per_s, nearest_size
from modernbert_train.recipe.text import describe_short_run, write_recipe


def text(*tokens, vocab_size=4_096, p95_tokens=700, long_share=0.2):
    sources = (
        Source(
            f"s{number}", "store", f"s{number}", -(-count // 300), count, count // 50 if number == 0 else 0
        )
        for number, count in enumerate(tokens)
    )
    return Text(tuple(sources), "", vocab_size, p95_tokens, long_share)


TOKENS = [700, 40_000, 400_000, 4_000_000, 40_000_000, 10**9, 10**12]
CASES = list(itertools.product(TOKENS, [0, 1, 3, 8, 24, 512], [1e-3, 1, 24, 1_000]))


@pytest.mark.parametrize(("tokens", "num_gpus", "hours"), CASES)
def test_sizes_divide_and_limits_hold(tokens, num_gpus, hours):
    available = text(tokens * 3 // 4, tokens - tokens * 3 // 4)
    choice = choose(
        available,
        hours,
        num_gpus,
        h100_tokens_per_s if num_gpus else lambda model: 4e10 / num_parameters(model),
    )
    devices = max(1, choice.num_gpus)
    assert devices <= max(1, num_gpus)
    assert choice.batch_tokens % (choice.row_tokens * choice.num_streams) == 0
    assert choice.num_streams % devices == 0
    assert choice.batch_tokens % (choice.micro_batch_tokens * devices) == 0
    assert choice.micro_batch_tokens % choice.row_tokens == 0
    assert choice.row_tokens >= choice.context_tokens
    assert choice.warmup_tokens <= choice.pretrain_tokens
    assert choice.tokens % choice.batch_tokens == 0
    assert sum(choice.shares.values()) == pytest.approx(1)
    if choice.num_steps > 3:  # of shorter runs, the hours or the text are not even enough for three steps
        assert choice.hours <= hours * 1.001
        epochs = [
            choice.shares[source.name] * choice.tokens / source.num_tokens for source in available.sources
        ]
        assert max(epochs) <= 4.001
    if choice.size != SIZES[0]:
        assert choice.tokens * 1.01 >= 20 * num_parameters(choice.model)


@pytest.mark.parametrize(
    ("held_out", "tokens_per_s", "expected"),
    [  # tokens of the run in an hour of 3,240 s -> tokens of each source, evaluations besides those after both phases
        ((4_000, 1_500), 20, (5_000, 0)),  # all, though the run has only 65K tokens
        ((10**7,), 20, (10_000, 0)),
        ((10**7, 10**7), 1_000, (48_600, 3)),  # 3 * 5% / 5 of 3.24M tokens
        ((10**7, 10**7), 100_000, (200_000, 10)),
        ((), 1_000, (0, 0)),
    ],
)
def test_an_evaluation_has_enough_tokens_and_takes_little_time(held_out, tokens_per_s, expected):
    sources = [
        Source(f"s{number}", "store", "s", 10**6, 10**9, count) for number, count in enumerate(held_out)
    ]
    sources = sources or [Source("s", "store", "s", 10**6, 10**9, 0)]
    choice = choose(
        Text(tuple(sources), "", 4_096, 700, 0.2), 1, 0, lambda _: tokens_per_s, fixed_size=SIZES[0]
    )
    every = choice.evaluate_every_tokens
    num_evaluations = (choice.tokens - 1) // every if every else 0
    assert num_evaluations == expected[1]
    assert choice.max_rows * choice.row_tokens >= expected[0]
    assert (choice.max_rows - 1) * choice.row_tokens <= expected[0]
    scored = sum(min(choice.max_rows * choice.row_tokens, count) for count in held_out)
    assert choice.evaluation_share == pytest.approx((2 + num_evaluations) * scored / 3 / choice.tokens)
    assert choice.evaluation_share <= (0.055 if expected[1] else 0.11)


@pytest.mark.parametrize(
    ("tokens", "tokens_per_s", "words"),
    [
        (10**9, 20, "(64.77K) than the model has parameters (1.103M)"),
        (10**9, 1_000, None),
        (50_000, 1_000, "from 5.516M tokens of text, read 4 times; the stores have 50K"),
    ],
)
def test_a_run_with_fewer_tokens_than_parameters_is_noted(tokens, tokens_per_s, words):
    available = text(tokens)
    choice = choose(available, 1, 0, lambda _: tokens_per_s, fixed_size=SIZES[0])
    note = describe_short_run(choice, available, None)
    if words is None:
        assert note == ""
        return
    assert words in note
    hours = 20 * num_parameters(choice.model) / (tokens_per_s * 0.9 * 3_600)  # 340 or 6.8
    assert f"at this speed about {float(f'{hours:.2g}'):g} hours give 20 tokens per parameter" in note
    weights = Weights("base", choice.model, "", 10_000.0, 10_000.0)
    assert describe_short_run(choice, available, weights) == ""
    assert note[1:40] in write_recipe(choice, available, None, "measured", "modernbert recipe store")


def test_known_runs():
    """The rules come near to recipes that were made by hand."""
    day = choose(text(10**11, vocab_size=50_368), 24, 1, lambda model: h100_tokens_per_s(model) / 0.9)
    assert day.size.file in ("base", "large")
    base = choose(text(10**11, vocab_size=50_368), 24, 1, h100_tokens_per_s, fixed_size=SIZES[4])
    assert base.tokens == pytest.approx(24e9, rel=0.01)  # yamls/pretrain/one-gpu-one-day.yaml: 26B
    assert base.batch_tokens == 524_288
    assert base.learning_rate == 8e-4
    quickstart = choose(text(10**7), 0.12, 0, lambda model: 4_900, fixed_size=SIZES[0])
    assert quickstart.tokens == pytest.approx(1.9e6, rel=0.01)
    assert quickstart.batch_tokens in (2_048, 4_096)


def test_a_longer_context_needs_a_long_run_and_long_documents():
    def extension(tokens, long_share):
        return choose(text(tokens, long_share=long_share), 24, 1, h100_tokens_per_s).extension_tokens

    assert extension(10**11, 0.2) > 0
    assert extension(10**11, 0.01) == 0
    assert extension(10**8, 0.2) == 0


def test_shares():
    assert choose_shares({"a": 100}, 50) == {"a": 1}
    shares = choose_shares({"a": 10_000, "b": 100}, 1_000)
    assert shares["b"] / shares["a"] == pytest.approx(0.01**0.7)
    capped = choose_shares({"a": 10_000, "b": 100}, 20_000)
    assert capped["b"] == pytest.approx(400 / 20_000)  # 4 times 100 tokens
    assert choose_shares({"a": 300, "b": 100}, 1_600) == pytest.approx({"a": 0.75, "b": 0.25})


def test_published_speeds():
    sizes = [size.model(50_368) for size in SIZES]
    assert [num_hidden_weights(model) for model in sizes] == sorted(map(num_hidden_weights, sizes))
    assert [h100_tokens_per_s(model) for model in sizes] == [size.h100_tokens_per_s for size in SIZES]
    assert [nearest_size(model) for model in sizes] == list(SIZES)
