"""A timeline of a run in characters: learning rate, batch, objective, theta and context over its tokens."""

from collections.abc import Callable, Iterator

from modernbert_train.common.text import page_width
from modernbert_train.config import format_tokens
from modernbert_train.schedule import PhaseSchedule, RunSchedule, learning_rate

LABEL_WIDTH = 20
NARROWEST_PHASE = 11  # columns, enough for a value
BARS = " ▁▂▃▄▅▆▇█"
THETAS = ("theta global", "theta local")  # rows of the table that only rotary positions have


def draw(schedule: RunSchedule, has_thetas: bool) -> Iterator[str]:
    """Yield the lines of the timeline, from left to right; every phase has its own scale of tokens."""
    widths = _widths([phase.num_tokens for phase in schedule.phases])
    highest_rate = max(phase.config.learning_rate for phase in schedule.phases)
    most_rows = max(phase.step_ranges[-1].batch_rows * phase.config.row_tokens for phase in schedule.phases)

    def band(label: str, value: Callable[[PhaseSchedule], str], filler: str = "─") -> str:
        cells = [cut(value(p), w).ljust(w, filler) for p, w in zip(schedule.phases, widths, strict=True)]
        return f"{label:<{LABEL_WIDTH}}" + "│".join(cells)

    def bars(
        label: str, top: str, height: int, share: Callable[[PhaseSchedule, float], float]
    ) -> Iterator[str]:
        for level in reversed(range(height)):
            cells = [
                "".join(_bar(share(p, (column + 0.5) / w), level, height) for column in range(w))
                for p, w in zip(schedule.phases, widths, strict=True)
            ]
            title = label if level == height - 1 else f"  top: {top}" if level == height - 2 else ""
            yield f"{title:<{LABEL_WIDTH}}" + "│".join(cells)

    def rate(phase: PhaseSchedule, progress: float) -> float:
        return learning_rate(phase.config, progress * phase.num_tokens) / highest_rate

    def batch(phase: PhaseSchedule, progress: float) -> float:
        return _batch_rows_at(phase, progress) * phase.config.row_tokens / most_rows

    yield band("", lambda phase: phase.name, filler=" ")
    yield from bars("learning rate", f"{highest_rate:g}", 4, rate)
    yield from bars("batch tokens", f"{most_rows:,}", 2, batch)
    yield band("objective", lambda phase: f"{phase.objective.describe()} ")
    if has_thetas:
        yield band(THETAS[0], lambda phase: f"{phase.config.global_rope_theta:,.0f} ")
    yield band("context tokens", lambda phase: f"{phase.config.context_tokens:,} ")
    yield band("tokens so far", lambda phase: format_tokens(phase.first_tokens), filler=" ")


def _widths(tokens: list[int]) -> list[int]:
    """Return the columns of each phase: its share of the tokens, with a minimum width."""
    columns = page_width() - LABEL_WIDTH - (len(tokens) - 1)
    least = max(1, min(NARROWEST_PHASE, columns // len(tokens)))
    spare = max(0, columns - least * len(tokens))
    return [least + spare * amount // sum(tokens) for amount in tokens]


def _batch_rows_at(phase: PhaseSchedule, progress: float) -> int:
    rows = progress * phase.rows_before(phase.num_steps)
    for step_range in phase.step_ranges:
        rows -= step_range.num_steps * step_range.batch_rows
        if rows < 0:
            break
    return step_range.batch_rows


def _bar(share: float, level: int, height: int) -> str:
    """Return the part of a bar in one line of the picture; `level` 0 is the lowest of `height` lines."""
    eighths = max(1, round(share * height * 8)) - level * 8
    return BARS[min(max(eighths, 0), 8)]


def cut(text: str, width: int) -> str:
    """Return the text, shortened with an ellipsis to at most `width` columns."""
    return text if len(text) <= width else text[: width - 1] + "…"
