"""The schedule of a run: phase, batch size, tokens and learning rate as pure functions of the step.

Time is measured in tokens (slots of rows: batch rows x row_tokens, padding included), and starts anew in every phase. A
phase is a sequence of step ranges, each with one batch size: those of the batch-size ramp, then the rest at full size.
Nothing is counted while training runs, so a resumed run, a run on another number of ranks and `--dry-run` all follow
the same schedule.

    1,000 tokens in batches of 80 (8 rows of 10), growing from 40 over 240 tokens by 2 rows at a time:
    2 steps of 4 rows and 2 of 6 (200 tokens), then 10 of 8 rows: StepRange(2, 4), StepRange(2, 6), StepRange(10, 8)

The learning rate of a step is that at the middle of its tokens. So no step has rate 0, neither the first of a warmup
nor the last of a decay, and the sum of rate x tokens over the steps is the area under the curve (midpoint rule) for any
batch size: a ramp does not shift the schedule.
"""

import math
from dataclasses import dataclass

from modernbert_train.config import PhaseConfig, Recipe
from modernbert_train.config.skip import skipped_steps
from modernbert_train.objectives import Objective, build_objective


def learning_rate(phase: PhaseConfig, tokens: float) -> float:
    """Return the learning rate after `tokens` tokens of a phase.

    It rises linearly over `warmup_tokens`, stays constant, and decays over the last `decay_tokens`; past the end it
    keeps its final value. This trapezoid is that of Zhai et al. 2022 (2106.04560) and Hägele et al. 2024 (2405.18392).
    All decay shapes, also the 1-sqrt of the latter, are scaled to end at `final_lr_fraction`.

    Args:
        phase: the settings of the phase.
        tokens: tokens since the start of the phase.

    Returns:
        The learning rate.
    """
    if tokens < phase.warmup_tokens:
        start = phase.start_lr_fraction
        return phase.learning_rate * (start + (1 - start) * tokens / phase.warmup_tokens)
    decay_start = phase.tokens - phase.decay_tokens
    if phase.decay_tokens == 0 or tokens <= decay_start:
        return phase.learning_rate
    progress = min(1.0, (tokens - decay_start) / phase.decay_tokens)
    final = phase.final_lr_fraction
    return phase.learning_rate * (final + (1 - final) * _decay(phase.decay_shape, progress))


def _decay(shape: str, progress: float) -> float:
    """Return a factor that falls from 1 to 0 as `progress` goes from 0 to 1."""
    if shape == "1-sqrt":
        return 1 - math.sqrt(progress)
    if shape == "linear":
        return 1 - progress
    assert shape == "cosine", shape
    return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class StepRange:
    """Consecutive steps with one batch size."""

    num_steps: int
    batch_rows: int


def plan_step_ranges(phase: PhaseConfig, unit_rows: int) -> tuple[StepRange, ...]:
    """Return the step ranges of a phase.

    In the ramp, every batch size from start_tokens up to, but without, batch_tokens gets the same number of steps, so
    larger batches get more of the tokens ("uneven token schedule", ModernBERT paper 2412.13663, section 2.2.2). That
    number brings the ramp nearest to its `tokens`. The rest of the phase runs at full size, for the number of steps, at
    least 1, that brings the phase nearest to its `tokens`; half a batch is rounded down.

    Args:
        phase: the settings of the phase.
        unit_rows: rows by which a batch grows at a time, one for each canonical stream.

    Returns:
        One range for each batch size, in order.
    """
    full_rows = phase.batch_tokens // phase.row_tokens
    step_ranges: tuple[StepRange, ...] = ()
    tokens = 0
    if phase.batch_ramp is not None:
        sizes = range(phase.batch_ramp.start_tokens // phase.row_tokens, full_rows, unit_rows)
        num_steps = max(1, _nearest(phase.batch_ramp.tokens, sum(sizes) * phase.row_tokens)) if sizes else 0
        step_ranges = tuple(StepRange(num_steps, size) for size in sizes)
        tokens = num_steps * sum(sizes) * phase.row_tokens
    return (*step_ranges, StepRange(max(1, _nearest(phase.tokens - tokens, phase.batch_tokens)), full_rows))


def _nearest(amount: int, part: int) -> int:
    """Return the multiple of `part` nearest to `amount`, as a factor; of two equally near ones the smaller."""
    return -((part - 2 * amount) // (2 * part))


@dataclass(frozen=True)
class PhaseSchedule:
    """The steps of one phase.

    `phase_step` counts from 0 within the phase; `first_step` and `first_tokens` are its start within the run.
    """

    name: str
    index: int
    config: PhaseConfig
    step_ranges: tuple[StepRange, ...]
    first_step: int
    first_tokens: int
    weight_decay: float

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the phase."""
        return sum(step_range.num_steps for step_range in self.step_ranges)

    @property
    def last_step(self) -> int:
        """Index of the last step of the phase within the run."""
        return self.first_step + self.num_steps - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of the phase: those of the recipe, rounded to whole steps."""
        return self.rows_before(self.num_steps) * self.config.row_tokens

    @property
    def objective(self) -> Objective:
        """What the phase trains the model to predict."""
        return build_objective(self.config.objective, self.config)

    def batch_rows(self, phase_step: int) -> int:
        """Return the rows of a step over all ranks."""
        assert 0 <= phase_step < self.num_steps, phase_step
        for step_range in self.step_ranges:
            if phase_step < step_range.num_steps:
                break
            phase_step -= step_range.num_steps
        return step_range.batch_rows

    def rows_before(self, phase_step: int) -> int:
        """Return the rows of all steps of the phase before `phase_step`, at most `num_steps`."""
        assert phase_step >= 0, phase_step
        rows = 0
        for step_range in self.step_ranges:
            steps = min(phase_step, step_range.num_steps)
            rows += steps * step_range.batch_rows
            phase_step -= steps
        assert phase_step == 0, "beyond the end of the phase"
        return rows

    def learning_rate(self, phase_step: int) -> float:
        """Return the learning rate of a step: that at the middle of its tokens."""
        middle_rows = self.rows_before(phase_step) + self.batch_rows(phase_step) / 2
        return learning_rate(self.config, middle_rows * self.config.row_tokens)


@dataclass(frozen=True)
class RunSchedule:
    """All steps of a run; `step` counts from 0 over all phases.

    A skipped step keeps its number, its batch and its place in all schedules, but is not trained. A checkpoint or log
    line that is due at it follows after the next trained step.
    """

    phases: tuple[PhaseSchedule, ...]
    skipped: tuple[range, ...] = ()  # ascending, not adjacent; without the last step of any phase

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.phases[-1].first_step + self.phases[-1].num_steps

    @property
    def total_tokens(self) -> int:
        """Tokens of the run."""
        return self.phases[-1].first_tokens + self.phases[-1].num_tokens

    def phase_of(self, step: int) -> PhaseSchedule:
        """Return the phase that a step belongs to."""
        assert 0 <= step < self.total_steps, step
        return next(phase for phase in reversed(self.phases) if phase.first_step <= step)

    def batch_rows(self, step: int) -> int:
        """Return the rows of a step over all ranks."""
        phase = self.phase_of(step)
        return phase.batch_rows(step - phase.first_step)

    def batch_tokens(self, step: int) -> int:
        """Return the tokens of a step over all ranks."""
        return self.batch_rows(step) * self.phase_of(step).config.row_tokens

    def tokens_before(self, step: int) -> int:
        """Return the tokens of all steps before `step`, at most `total_steps`."""
        if step == self.total_steps:
            return self.total_tokens
        phase = self.phase_of(step)
        return phase.first_tokens + phase.rows_before(step - phase.first_step) * phase.config.row_tokens

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: that at the middle of its tokens."""
        phase = self.phase_of(step)
        return phase.learning_rate(step - phase.first_step)

    def is_logged(self, step: int, every_steps: int) -> bool:
        """Check whether step number `step`, counted from 1, is a multiple of `every_steps` or the last one."""
        return _reaches_multiple(self._since(step - 1), step, every_steps) or step == self.total_steps

    def is_due(self, step: int, every_tokens: int) -> bool:
        """Check whether something that happens every `every_tokens` tokens happens at the end of `step`.

        It does at the last step of a phase, and if the step, or a skipped one right before it, reaches a multiple of
        `every_tokens` (0: never) more than two steps from the end of a phase, which would only repeat it. (An interval
        of less than four steps is half as strict.)

        Args:
            step: index of the step.
            every_tokens: the interval.

        Returns:
            True if it is due.
        """
        phase = self.phase_of(step)
        if step == phase.last_step:
            return True
        near = min(2, every_tokens // self.batch_tokens(step) // 2)
        if phase.last_step - step <= near or (phase.index > 0 and step - phase.first_step < near):
            return False
        before = self.tokens_before(self._since(step))
        return _reaches_multiple(before, self.tokens_before(step + 1), every_tokens)

    def _since(self, step: int) -> int:
        """Return the first of the skipped steps right before `step`, or `step` if there are none."""
        return next((part.start for part in self.skipped if part.stop == step), step)

    def estimate_num_due(self, every_tokens: int) -> int:
        """Estimate how many steps are due: an upper bound, because a step that is due for two reasons counts twice."""
        multiples = self.total_tokens // every_tokens if every_tokens else 0
        return min(self.total_steps, multiples + len(self.phases))

    def problems(self) -> list[str]:
        """Return what is wrong with the skipped steps."""
        found = [
            f"data.skip.steps has {self.total_steps + 1 if part.start < self.total_steps else part.start + 1}, but "
            f"the run has {self.total_steps:,} steps; steps count from 1, as in the logs"
            for part in self.skipped
            if part.stop > self.total_steps
        ]
        return found + [
            f"data.skip.steps has {phase.last_step + 1}, the last step of phase {phase.name}, which cannot be "
            f"skipped: a checkpoint is saved after it; skip up to {phase.last_step}, or shorten the phase"
            for phase in self.phases
            if any(phase.last_step in part for part in self.skipped)
        ]


def _reaches_multiple(before: int, after: int, every_tokens: int) -> bool:
    return every_tokens > 0 and after // every_tokens > before // every_tokens


def build_schedule(recipe: Recipe) -> RunSchedule:
    """Build the schedule of a valid recipe.

    Args:
        recipe: the recipe.

    Returns:
        Its schedule.

    Raises:
        ValueError: it skips steps that the run does not have, or the last step of a phase.
    """
    phases: list[PhaseSchedule] = []
    step = tokens = 0
    for index, (name, config) in enumerate(recipe.phases.items()):
        step_ranges = plan_step_ranges(config, recipe.data.num_streams)
        weight_decay = recipe.optimizer.weight_decay if config.weight_decay is None else config.weight_decay
        phase = PhaseSchedule(name, index, config, step_ranges, step, tokens, weight_decay)
        phases.append(phase)
        step += phase.num_steps
        tokens += phase.num_tokens
    schedule = RunSchedule(tuple(phases), skipped_steps(recipe.data.skip))
    if problems := schedule.problems():
        raise ValueError("\n".join(problems))
    return schedule
