from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tests.helpers.quiet_composer  # noqa: F401
from modernbert_train.config.schema import OptimizerConfig
from modernbert_train.finetuning.engine import SMALL_PART_TOKENS, cut_by_length, cut_by_tokens
from modernbert_train.finetuning.loop import evaluation_steps, rate_of_step, train
from modernbert_train.finetuning.packed import PackedEngine
from modernbert_train.optim.optimizer import build_optimizer, set_learning_rate
from tests.finetuning.test_parity import CPU, examples_of, task_of


def test_rates_rise_and_fall() -> None:
    task = task_of("classification", learning_rate=1.0, warmup=0.2)
    rates = [rate_of_step(task, step, 10) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    constant = task_of("classification", learning_rate=1.0, warmup=0.0, schedule="constant")
    assert {rate_of_step(constant, step, 10) for step in range(1, 11)} == {1.0}


@pytest.mark.parametrize(
    ("steps", "per_epoch", "evaluations", "expected"),
    [(30, 10, 1, {10, 20, 30}), (25, 10, 2, {5, 10, 15, 20, 25}), (7, 10, 1, {7}), (3, 3, 9, {1, 2, 3})],
)
def test_evaluations_are_evenly_spaced(
    steps: int, per_epoch: int, evaluations: int, expected: set[int]
) -> None:
    assert evaluation_steps(steps, per_epoch, evaluations) == expected


def test_parts_hold_every_row_once_within_the_limit() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 400).tolist()
    parts = cut_by_tokens(lengths, 60)
    assert [row for part in parts for row in part] == list(range(400))
    assert all(len(part) == 1 or sum(lengths[row] for row in part) <= 60 for part in parts)
    assert len(parts) < 1.5 * sum(lengths) / 60
    for max_tokens in (60, 10_000):
        parts = cut_by_length(lengths, max_tokens)
        assert sorted(row for part in parts for row in part) == list(range(400))
        for part in parts:
            tokens, padded = sum(lengths[row] for row in part), max(lengths[row] for row in part) * len(part)
            assert padded <= max_tokens
            assert tokens >= 0.75 * padded or tokens < SMALL_PART_TOKENS + 50
    assert cut_by_length([100, 100], 60) == cut_by_tokens([100, 100], 60) == [[0], [1]]


def test_weight_decay_is_that_of_composers_decoupled_adamw() -> None:
    """The protocol of the paper's code: a step removes weight_decay * (rate / peak) of a weight."""
    from composer.optim import DecoupledAdamW  # after its warnings are off

    rates = [0.2e-3, 1e-3, 0.5e-3, 0.1e-3]
    ours, theirs = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(name="adamw", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    optimizer = build_optimizer(ours, config, 1e-3)
    reference = DecoupledAdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    for step, rate in enumerate(rates):
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        set_learning_rate(optimizer, rate, 1e-3)
        reference.param_groups[0]["lr"] = rate
        for model, chosen in ((ours, optimizer), (theirs, reference)):
            model(inputs).square().sum().backward()
            chosen.step()
            chosen.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-7, rtol=1e-5)


def outcome_of(folder: Path, **fields: Any) -> tuple[Any, PackedEngine]:
    task = task_of("classification", batch_size=8, **fields)
    engine = PackedEngine(folder, task, 0, CPU)
    examples = examples_of("classification", [5, 9, 3, 20] * 8)
    return train(
        engine, examples, {"valid": examples_of("classification", [5] * 12, seed=1)}, task, 0
    ), engine


def test_the_best_weights_are_kept_or_the_last(tiny_exported: Path) -> None:
    best, best_engine = outcome_of(tiny_exported, epochs=4, learning_rate=1e-3)
    last, last_engine = outcome_of(tiny_exported, epochs=4, learning_rate=1e-3, keep="last")
    assert [e.score for e in best.evaluations] == [e.score for e in last.evaluations]
    assert best.kept.score == max(e.score for e in best.evaluations)
    assert last.kept.step == 16
    assert best.kept.step < 16, "choose another seed: this test needs a best evaluation before the last"
    weights, last_weights = best_engine.model.classifier.weight, last_engine.model.classifier.weight
    assert not torch.equal(weights, last_weights)
    again, _ = outcome_of(tiny_exported, epochs=4, learning_rate=1e-3, patience=1)
    assert again.stopped_early
    assert len(again.evaluations) < 4
    assert again.losses == best.losses[: len(again.losses)]


def test_a_loss_that_is_not_finite_is_an_error(tiny_exported: Path) -> None:
    task = task_of("classification", batch_size=8)
    engine = PackedEngine(tiny_exported, task, 0, CPU)
    engine.model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="t: the loss of step 1 is nan; lower learning_rate"):
        train(engine, examples_of("classification", [5] * 8), {}, task, 0)
