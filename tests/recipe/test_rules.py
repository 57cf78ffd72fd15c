"""The rules by which a recipe is chosen."""

import itertools

import pytest

from modernbert_train.config.architecture import num_hidden_weights, num_parameters
from modernbert_train.recipe.facts import Source, Text
from modernbert_train.recipe.rules import choose, choose_shares
from modernbert_train.recipe.speed import SIZES, h100_tokens_per_s, nearest_size


def text(*tokens, vocab_size=4_096, p95_tokens=700, long_share=0.2):
    sources = (
        Source(f"s{number}", "store", f"s{number}", -(-count // 300), count, has_held_out=number == 0)
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
