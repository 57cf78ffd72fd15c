"""Curves of a run: smoothed metrics, the planned schedule, held-out scores and the text of each source."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modernbert_train.checkpoints.run_files import RunMetrics
from modernbert_train.common.types import Float64
from modernbert_train.objectives import MaskedLM
from modernbert_train.schedule import RunSchedule, learning_rate

# Points of the planned learning rate in each phase, besides its corners.
_POINTS_OF_PHASE = 120


def column(lines: Sequence[Mapping[str, Any]], name: str) -> Float64:
    """Return the values of a metric; NaN where a line lacks it."""
    values = [line.get(name) for line in lines]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def objective_of(line: Mapping[str, Any]) -> str:
    """Return the objective of a line; older ones do not name it."""
    return str(line.get("objective", MaskedLM.name))


def smooth(values: Float64, window: int) -> Float64:
    """Return the centred running mean, which skips NaN; the window is shorter at both ends."""
    known = np.isfinite(values)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(part)])
        for part in (np.where(known, values, 0.0), known.astype(np.float64))
    )
    places = np.arange(len(values))
    start = np.maximum(places - window // 2, 0)
    end = np.minimum(places + (window - 1) // 2 + 1, len(values))
    count = counts[end] - counts[start]
    return np.where(count > 0, (sums[end] - sums[start]) / np.maximum(count, 1.0), np.nan)


def smooth_by_phase(lines: Sequence[Mapping[str, Any]], values: Float64) -> tuple[Float64, Float64]:
    """Smooth a metric within each phase, over about a fiftieth of the run.

    Returns:
        Tokens and values; NaN between the phases, where another mask rate or context may make the loss jump.
    """
    tokens, window = column(lines, "tokens"), max(1, len(lines) // 50) | 1
    names = [(line.get("phase"), objective_of(line)) for line in lines]
    starts = [0, *(place for place in range(1, len(names)) if names[place] != names[place - 1]), len(names)]
    x, y = [], []
    for start, end in itertools.pairwise(starts):
        x += [tokens[start:end], tokens[end - 1 : end]]
        y += [smooth(values[start:end], window), np.array([np.nan])]
    return np.concatenate(x)[:-1], np.concatenate(y)[:-1]


def held_out(
    evaluations: Sequence[Mapping[str, Any]], source: str, score: str = "loss"
) -> tuple[Float64, Float64]:
    """Return tokens and scores of a source; NaN between evaluations of different objectives."""
    x: list[float] = []
    y: list[float] = []
    before: str | None = None
    for line in evaluations:
        value = line["eval"].get(source, {}).get(score)
        if value is None:
            continue
        if before is not None and objective_of(line) != before:
            x.append(line["tokens"])
            y.append(np.nan)
        before = objective_of(line)
        x.append(line["tokens"])
        y.append(value)
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def mean_held_out(
    evaluations: Sequence[Mapping[str, Any]], sources: Sequence[str], score: str = "loss"
) -> tuple[Float64, Float64]:
    """Return tokens and the mean over the sources, of those evaluations that have them all."""
    complete = [
        {
            **line,
            "eval": {"mean": {score: float(np.mean([line["eval"][source][score] for source in sources]))}},
        }
        for line in evaluations
        if all(line["eval"].get(source, {}).get(score) is not None for source in sources)
    ]
    return held_out(complete, "mean", score)


def planned_rate(schedule: RunSchedule) -> tuple[Float64, Float64]:
    """Return tokens and the planned learning rate of the whole run, with all corners of its phases."""
    x, y = [], []
    for phase in schedule.phases:
        config, end = phase.config, float(phase.num_tokens)
        corners = [0.0, config.warmup_tokens, config.tokens - config.decay_tokens, end]
        tokens = np.unique(np.clip([*corners, *np.linspace(0, end, _POINTS_OF_PHASE)], 0.0, end))
        x.append(phase.first_tokens + tokens)
        y.append([learning_rate(config, value) for value in tokens.tolist()])
    return np.concatenate(x), np.concatenate(y)


def planned_batch(schedule: RunSchedule) -> tuple[Float64, Float64]:
    """Return tokens and the planned tokens of a batch, two points for each size."""
    x, y = [], []
    for phase in schedule.phases:
        tokens = float(phase.first_tokens)
        for part in phase.step_ranges:
            batch = part.batch_rows * phase.config.row_tokens
            x += [tokens, tokens + part.num_steps * batch]
            y += [batch, batch]
            tokens = x[-1]
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def source_tokens(metrics: RunMetrics) -> dict[str, dict[str, int]]:
    """Return phase -> source -> content tokens that it has read; empty if the lines lack the counts."""
    before: dict[str, int] = {}
    phases: dict[str, dict[str, int]] = {}
    for line in metrics.training:
        counts = line.get("source_tokens")
        if not counts:
            return {}
        read = phases.setdefault(str(line.get("phase")), {})
        for source, count in counts.items():
            read[source] = read.get(source, 0) + count - before.get(source, 0)
        before = counts
    return phases


def training_hours(metrics: RunMetrics) -> float | None:
    """Return the hours in which steps were computed, without evaluations, checkpoints and stops; None if unknown."""
    seconds, tokens = 0.0, 0
    for line in metrics.training:
        speed, fill = line.get("tokens_per_s"), line.get("fill", 1.0)
        if not speed:
            return None
        seconds += (line["tokens"] - tokens) * fill / speed
        tokens = line["tokens"]
    return seconds / 3600 if metrics.training else None
