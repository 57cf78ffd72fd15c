"""Slow reference of modernbert_train/schedule.py: computes every step, one by one."""

from dataclasses import dataclass
from math import cos, pi, sqrt

from modernbert_train.config import PhaseConfig, Recipe


@dataclass(frozen=True)
class Step:
    """One optimizer step of a run."""

    phase: str
    phase_step: int
    batch_rows: int
    tokens_before: int  # since the start of the run
    learning_rate: float


def all_steps(recipe: Recipe) -> list[Step]:
    """Return every step of the run, in order."""
    steps: list[Step] = []
    run_tokens = 0
    for name, phase in recipe.phases.items():
        tokens = 0
        for phase_step, rows in enumerate(batch_sizes(phase, recipe.data.num_streams)):
            batch_tokens = rows * phase.row_tokens
            rate = learning_rate(phase, tokens + batch_tokens / 2)
            steps.append(Step(name, phase_step, rows, run_tokens, rate))
            tokens += batch_tokens
            run_tokens += batch_tokens
    return steps


def batch_sizes(phase: PhaseConfig, unit_rows: int) -> list[int]:
    """Return the rows of every step of a phase: add steps until one more would increase the error."""
    full = phase.batch_tokens // phase.row_tokens
    ramp: list[int] = []
    if phase.batch_ramp is not None:
        sizes = list(range(phase.batch_ramp.start_tokens // phase.row_tokens, full, unit_rows))

        def ramp_of(steps: int) -> list[int]:
            return [size for size in sizes for _ in range(steps)]

        def ramp_error(steps: int) -> int:
            return abs(sum(ramp_of(steps)) * phase.row_tokens - phase.batch_ramp.tokens)

        steps = 1
        while ramp_error(steps + 1) < ramp_error(steps):
            steps += 1
        ramp = ramp_of(steps)

    def error(steps: int) -> int:
        return abs((sum(ramp) + steps * full) * phase.row_tokens - phase.tokens)

    steps = 1
    while error(steps + 1) < error(steps):
        steps += 1
    return ramp + [full] * steps


def learning_rate(phase: PhaseConfig, tokens: float) -> float:
    """Return the rate as the smaller of two curves, for schedules whose warmup and decay do not overlap."""
    peak = phase.learning_rate
    up = 1.0
    if phase.warmup_tokens:
        start = phase.start_lr_fraction
        up = min(1.0, start + (1 - start) * tokens / phase.warmup_tokens)
    down = 1.0
    if phase.decay_tokens:
        progress = (tokens - phase.tokens + phase.decay_tokens) / phase.decay_tokens
        progress = max(0.0, min(1.0, progress))
        shape = {
            "1-sqrt": 1 - sqrt(progress),
            "linear": 1 - progress,
            "cosine": 0.5 + 0.5 * cos(pi * progress),
        }
        final = phase.final_lr_fraction
        down = final + (1 - final) * shape[phase.decay_shape]
    return peak * min(up, down)
