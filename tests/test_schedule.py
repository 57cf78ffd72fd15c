import random
from dataclasses import replace
from typing import get_args

import pytest

from modernbert_train.config import BatchRampConfig, MixtureConfig, PhaseConfig, SkipConfig
from modernbert_train.config.schema import DecayShape
from modernbert_train.schedule import StepRange, build_schedule, learning_rate, plan_step_ranges
from tests.helpers.little_recipe import a_recipe
from tests.reference import schedule as reference


def a_phase(**fields):
    sound = PhaseConfig(
        tokens=1_000,
        batch_tokens=80,
        row_tokens=10,
        micro_batch_tokens=10,
        learning_rate=1.0,
        mixture=MixtureConfig({"web": 1.0}),
    )
    return replace(sound, **fields)


@pytest.mark.parametrize(
    ("shape", "rates"),
    [  # after 0, 100, 200 (end of warmup), 600 (start of decay), 700, 800, 900, 1,000 and 1,100 tokens
        ("1-sqrt", [0, 0.5, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0, 0]),
        ("linear", [0, 0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [0, 0.5, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0, 0]),
    ],
)
def test_the_trapezoid_by_hand(shape, rates):
    phase = a_phase(warmup_tokens=200, decay_tokens=400, decay_shape=shape)
    tokens = [0, 100, 200, 600, 700, 800, 900, 1_000, 1_100]
    assert [learning_rate(phase, count) for count in tokens] == pytest.approx(rates, abs=1e-12)


def test_start_and_final_fractions():
    phase = a_phase(
        learning_rate=2.0, warmup_tokens=100, start_lr_fraction=0.5, decay_tokens=400, final_lr_fraction=0.1
    )
    assert [learning_rate(phase, count) for count in (0, 50, 100, 600)] == [1.0, 1.5, 2.0, 2.0]
    assert learning_rate(phase, 700) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert learning_rate(phase, 1_000) == pytest.approx(0.2)


def test_without_warmup_and_decay_the_rate_is_constant():
    assert {learning_rate(a_phase(), count) for count in (0, 1, 999, 1_000, 2_000)} == {1.0}


def test_a_decay_over_the_whole_phase():
    phase = a_phase(decay_tokens=1_000, decay_shape="linear")
    assert [learning_rate(phase, count) for count in (0, 250, 1_000)] == [1.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("ramp", "unit_rows", "step_ranges"),
    [
        (None, 2, [(12, 8)]),  # 12.5 batches: half a batch is rounded down
        (
            (40, 240),
            2,
            [(2, 4), (2, 6), (10, 8)],
        ),  # 2 x (40 + 60) = 200 is nearer to 240 than 300; 800 = 10 x 80
        ((40, 260), 2, [(3, 4), (3, 6), (9, 8)]),  # 300; 700 = 8.75 x 80
        ((20, 200), 2, [(2, 2), (2, 4), (2, 6), (9, 8)]),  # 240; 760 = 9.5 x 80
        ((40, 100), 4, [(2, 4), (11, 8)]),  # 2.5 x 40, rounded down to 80; 920 = 11.5 x 80
        ((40, 1_000), 2, [(10, 4), (10, 6), (1, 8)]),  # the last step has the full batch
    ],
)
def test_batches_by_hand(ramp, unit_rows, step_ranges):
    phase = a_phase(batch_ramp=BatchRampConfig(*ramp) if ramp else None)
    assert plan_step_ranges(phase, unit_rows) == tuple(StepRange(*step_range) for step_range in step_ranges)


def test_a_run_by_hand():
    """Phase 0: 80 + 80 + 160 tokens a step in rows of 40; phase 1: two steps of 160 in rows of 80."""
    first = a_phase(
        tokens=320,
        row_tokens=40,
        batch_tokens=160,
        batch_ramp=BatchRampConfig(start_tokens=80, tokens=160),
        warmup_tokens=160,
    )
    second = a_phase(tokens=300, row_tokens=80, batch_tokens=160, decay_tokens=320 - 20, decay_shape="linear")
    plan = build_schedule(a_recipe(first, second))
    assert (plan.total_steps, plan.total_tokens) == (5, 640)
    assert [plan.phase_of(step).name for step in range(5)] == ["phase0"] * 3 + ["phase1"] * 2
    assert [plan.batch_rows(step) for step in range(5)] == [2, 2, 4, 2, 2]
    assert [plan.batch_tokens(step) for step in range(5)] == [80, 80, 160, 160, 160]
    assert [plan.tokens_before(step) for step in range(6)] == [0, 80, 160, 320, 480, 640]
    # In the middle of each step: 40, 120, 240 tokens of a warmup of 160; 80, 240 tokens of a decay of 300.
    assert [plan.learning_rate(step) for step in range(5)] == pytest.approx(
        [1 / 4, 3 / 4, 1, 1 - 80 / 300, 1 - 240 / 300]
    )
    second_plan = plan.phases[1]
    assert (second_plan.index, second_plan.first_step, second_plan.first_tokens) == (1, 3, 320)
    assert (second_plan.num_steps, second_plan.num_tokens) == (2, 320)


@pytest.mark.parametrize("tokens", range(960, 1_041, 10))
def test_no_step_has_a_rate_of_zero(tokens):
    phase = a_phase(tokens=tokens, warmup_tokens=500, decay_tokens=tokens - 500, decay_shape="linear")
    plan = build_schedule(a_recipe(phase))
    rates = [plan.learning_rate(step) for step in range(plan.total_steps)]
    assert rates[0] == 40 / 500
    assert 0 < rates[-1] <= 90 / phase.decay_tokens


def test_the_sum_over_the_steps_is_the_area_under_the_curve():
    constant = a_phase(tokens=960, warmup_tokens=480, decay_tokens=480, decay_shape="linear")
    ramped = replace(constant, batch_ramp=BatchRampConfig(start_tokens=40, tokens=480))
    for phase in (constant, ramped):
        plan = build_schedule(a_recipe(phase))
        area = sum(plan.learning_rate(step) * plan.batch_tokens(step) for step in range(plan.total_steps))
        assert area == pytest.approx(480, rel=0.02)


def random_recipe(seed):
    numbers = random.Random(seed)
    phases = []
    for _ in range(numbers.randint(1, 4)):
        row, streams_batches = numbers.choice([8, 10, 32]), numbers.randint(1, 6)
        unit = 2 * row
        batch = streams_batches * unit
        tokens = numbers.randint(batch, 60 * batch)
        ramp = None
        if streams_batches > 1 and numbers.random() < 0.7:
            start = numbers.randint(1, streams_batches - 1) * unit
            shortest = sum(range(start, batch, unit))
            ramp = BatchRampConfig(start, numbers.randint(min(shortest, tokens), tokens))
        warmup = numbers.choice([0, numbers.randint(0, tokens)])
        decay = numbers.choice([0, numbers.randint(0, tokens - warmup)])
        phases.append(
            a_phase(
                tokens=tokens,
                row_tokens=row,
                batch_tokens=batch,
                batch_ramp=ramp,
                learning_rate=numbers.uniform(1e-5, 1e-2),
                warmup_tokens=warmup,
                decay_tokens=decay,
                start_lr_fraction=numbers.choice([0.0, 0.25]),
                final_lr_fraction=numbers.choice([0.0, 0.02]),
                decay_shape=numbers.choice(get_args(DecayShape)),
            )
        )
    return a_recipe(*phases)


@pytest.mark.parametrize("seed", range(60))
def test_the_plan_agrees_with_its_slow_twin(seed):
    recipe = random_recipe(seed)
    plan, steps = build_schedule(recipe), reference.all_steps(recipe)
    assert plan.total_steps == len(steps)
    for number, step in enumerate(steps):
        phase = plan.phase_of(number)
        assert (phase.name, number - phase.first_step) == (step.phase, step.phase_step)
        assert plan.batch_rows(number) == step.batch_rows
        assert plan.tokens_before(number) == step.tokens_before
        assert plan.learning_rate(number) == pytest.approx(step.learning_rate, rel=1e-12, abs=1e-15)
    assert plan.total_tokens == sum(plan.batch_tokens(number) for number in range(plan.total_steps))


@pytest.mark.parametrize("every_tokens", [0, 7, 80, 100, 333, 5_000, 10**9])
def test_what_is_done_every_so_many_tokens(every_tokens):
    phases = [
        a_phase(batch_ramp=BatchRampConfig(start_tokens=40, tokens=240)),
        a_phase(tokens=330),
        a_phase(tokens=80),
    ]
    plan = build_schedule(a_recipe(*phases))
    due = [step for step in range(plan.total_steps) if plan.is_due(step, every_tokens)]
    last_steps = [phase.first_step + phase.num_steps - 1 for phase in plan.phases]
    multiples = range(every_tokens, plan.total_tokens + 1, every_tokens) if every_tokens else []
    reached = [
        next(step for step in range(plan.total_steps) if plan.tokens_before(step + 1) >= tokens)
        for tokens in multiples
    ]
    near = min(2, every_tokens // 80 // 2)
    repeated = {last + offset for last in last_steps for offset in range(-near, near + 1)}
    assert due == sorted({*last_steps, *(set(reached) - repeated)})
    estimate = plan.estimate_num_due(every_tokens)
    assert len(due) <= estimate <= plan.total_steps
    if not every_tokens or every_tokens >= 80:  # a step reaches at most one multiple
        assert estimate <= len(due) + len(phases)


def test_nothing_is_done_again_within_two_steps_of_the_end_of_a_phase():
    plan = build_schedule(
        a_recipe(a_phase(tokens=1_680), a_phase(tokens=1_600))
    )  # 21 and 20 steps of 80 tokens
    due = [step + 1 for step in range(plan.total_steps) if plan.is_due(step, 5 * 80)]
    assert due == [5, 10, 15, 21, 25, 30, 35, 41]  # not 20 and 40


def skipping(*phases, steps):
    recipe = a_recipe(*phases)
    return build_schedule(replace(recipe, data=replace(recipe.data, skip=SkipConfig(steps=list(steps)))))


@pytest.mark.parametrize("every", [0, 7, 80, 100, 333, 5_000, 10**9])
@pytest.mark.parametrize("steps", [["1"], ["3-5"], ["2", "4", "6-13"], ["16", "17-18"], ["13", "15-19"]])
def test_what_is_due_at_skipped_steps_is_done_after_them(steps, every):
    phases = [a_phase(batch_ramp=BatchRampConfig(start_tokens=40, tokens=240)), a_phase(tokens=500)]
    whole, plan = build_schedule(a_recipe(*phases)), skipping(*phases, steps=steps)
    assert (whole.total_steps, whole.phases[0].num_steps) == (20, 14)
    trained = [step for step in range(plan.total_steps) if not any(step in part for part in plan.skipped)]
    for is_done, is_done_whole in (
        (lambda step: plan.is_due(step, every), lambda step: whole.is_due(step, every)),
        (
            lambda step: plan.is_logged(step + 1, every or 1),
            lambda step: whole.is_logged(step + 1, every or 1),
        ),
    ):
        done, waiting = [], False
        for step in range(plan.total_steps):
            waiting = waiting or is_done_whole(step)
            if step in trained and waiting:
                done.append(step)
                waiting = False
        assert [step for step in trained if is_done(step)] == done
    assert plan.estimate_num_due(every) >= sum(plan.is_due(step, every) for step in trained)
    # Schedules do not know of it.
    for step in range(plan.total_steps):
        assert plan.learning_rate(step) == whole.learning_rate(step)
        assert plan.tokens_before(step) == whole.tokens_before(step)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (
            ["14"],
            "data.skip.steps has 14, the last step of phase phase0, .* skip up to 13, or shorten the phase",
        ),
        (["10-20"], "data.skip.steps has 14, the last step of phase phase0, "),
        (["30"], "data.skip.steps has 30, but the run has 20 steps; steps count from 1"),
        (["20-21"], "data.skip.steps has 21, but the run has 20 steps"),
    ],
)
def test_steps_that_cannot_be_skipped(steps, told):
    phases = [a_phase(batch_ramp=BatchRampConfig(start_tokens=40, tokens=240)), a_phase(tokens=500)]
    with pytest.raises(ValueError, match=f"^{told}"):
        skipping(*phases, steps=steps)
