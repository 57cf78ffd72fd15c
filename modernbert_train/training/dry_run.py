"""What a recipe comes to, before anything is trained: parameters, steps, disk, and a picture over the tokens.

Text for a terminal of 80 columns. Everything follows from the recipe and its plan; what only the stores can
tell (passes over each source, how full the rows are) is shown where the caller gives it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modernbert_train.config import InitConfig, PhaseConfig, Recipe, format_tokens
from modernbert_train.optim.schedule import PhasePlan, RunPlan, learning_rate
from modernbert_train.training.model_size import describe_model, num_parameters

WIDTH = 80
LABEL_WIDTH = 20  # of the table and of the picture
PHASES_IN_A_TABLE = 4
NARROWEST_PHASE = 10  # columns of the picture, so that a value can stand in it
BYTES_PER_PARAMETER = 12  # of a checkpoint: a weight and the optimizer's two moments, fp32
BYTES_OF_AVERAGE = 4  # more where a moving average of the weights is kept
BARS = " ▁▂▃▄▅▆▇█"
THETAS = ("theta global", "theta local")  # figures that only rotary positions have


@dataclass(frozen=True)
class PhaseData:
    """What a phase reads, as the stores tell it."""

    passes: dict[str, float]  # source -> how many times its text is gone through
    fill: float  # share of the slots of the rows that hold a token


def describe(recipe: Recipe, plan: RunPlan, data: list[PhaseData] | None = None) -> str:
    """Returns the figures of a run as text. `data`: one entry for each phase, where the stores were read."""
    lines = [
        f"{recipe.name}: {format_tokens(plan.total_tokens)} tokens in {plan.total_steps:,} steps",
        "",
        *(line for label, text in _summary(recipe, plan).items() for line in _entry(label, text)),
        "",
        *_tables(recipe, plan, data),
        *_picture(plan, has_thetas=recipe.model.positions == "rope"),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _summary(recipe: Recipe, plan: RunPlan) -> dict[str, str]:
    model, data, optimizer, training = recipe.model, recipe.data, recipe.optimizer, recipe.training
    clip = optimizer.gradient_clip_norm
    saves = plan.num_due(training.save_every_tokens)
    # The newest, the end of each phase, and one that is being written.
    on_disk = min(saves, training.keep_checkpoints + len(plan.phases)) + 1
    has_average = training.ema_half_life_tokens > 0
    checkpoint_bytes = num_parameters(model) * (BYTES_PER_PARAMETER + BYTES_OF_AVERAGE * has_average)
    return {
        "model": describe_model(model),
        "start": _start(recipe.init),
        "optimizer": f"StableAdamW, betas {optimizer.betas[0]:g} and {optimizer.betas[1]:g}, eps "
        f"{optimizer.eps:g}, weight decay {optimizer.weight_decay:g}, "
        + ("gradients not clipped" if clip is None else f"gradients clipped at norm {clip:g}"),
        "data": f"tokenizer {data.tokenizer}, {_count(data.streams, 'stream')}, windows of "
        f"{_count(data.window_rows, 'row')}, {_count(data.num_workers, 'worker')} a rank",
        "masking": f"{recipe.masking.mask_fraction:.0%} [MASK], {recipe.masking.random_fraction:.0%} random, "
        f"{recipe.masking.keep_fraction:.0%} kept",
        "evaluation": f"{_count(plan.num_due(recipe.evaluation.every_tokens), 'time')}, "
        f"{recipe.evaluation.mask_rate:.0%} masked, about {_count(recipe.evaluation.max_rows, 'row')} of "
        "each source",
        "checkpoints": f"{saves:,} written, {_bytes(checkpoint_bytes)} each; the newest "
        f"{training.keep_checkpoints} and the end of each phase stay: up to "
        f"{_bytes(on_disk * checkpoint_bytes)} on disk"
        + (", with a moving average of the weights" if has_average else ""),
        "run folder": f"{recipe.run_folder}, seed {recipe.seed}",
    }


def _start(init: InitConfig) -> str:
    if init.from_ is None:
        return "random weights"
    steps = [f"weights of {init.from_}"]
    steps += ["transplanted onto this tokenizer"] * init.transplant
    steps += [f"made larger by {init.method}"] * (init.method != "copy")
    return ", ".join(steps)


def _entry(label: str, text: str) -> Iterator[str]:
    """Wraps `text` beside its label."""
    line = f"{label:<13}"
    for word in text.split():
        if len(line) + len(word) > WIDTH:
            yield line
            line = " " * 13
        line += word + " "
    yield line


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _bytes(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def _tables(recipe: Recipe, plan: RunPlan, data: list[PhaseData] | None) -> Iterator[str]:
    """Yields a column of figures for each phase, a few phases side by side."""
    sources = list(recipe.data.sources)
    columns = [_figures(phase, sources, data[phase.index] if data else None) for phase in plan.phases]
    if recipe.model.positions != "rope":
        columns = [[cell for cell in column if cell[0] not in THETAS] for column in columns]
    width = (WIDTH - LABEL_WIDTH) // min(len(columns), PHASES_IN_A_TABLE)
    for first in range(0, len(columns), PHASES_IN_A_TABLE):
        chosen = columns[first : first + PHASES_IN_A_TABLE]
        for cells in zip(*chosen, strict=True):
            label = _cut(cells[0][0], LABEL_WIDTH - 1)
            yield f"{label:<{LABEL_WIDTH}}" + "".join(
                f"{_cut(cell, width - 1):>{width}}" for _, cell in cells
            )
            if label == "phase":
                yield "─" * (LABEL_WIDTH + width * len(chosen))
        yield ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _figures(phase: PhasePlan, sources: list[str], data: PhaseData | None) -> list[tuple[str, str]]:
    """Returns the labels and figures of one phase; `-` for what it does not have."""
    config = phase.config
    rows = phase.rows_before(phase.num_steps)
    ramp_rows = rows - phase.segments[-1].num_steps * phase.segments[-1].batch_rows
    first, full = phase.segments[0].batch_rows, phase.segments[-1].batch_rows
    figures = [
        ("phase", phase.name),
        ("tokens", format_tokens(phase.num_tokens)),
        ("steps", f"{phase.num_steps:,}"),
        ("rows", f"{rows:,}"),
        ("context tokens", f"{config.context_tokens:,}"),
        ("row tokens", f"{config.row_tokens:,}"),
        ("micro-batch tokens", f"{config.micro_batch_tokens:,}"),
        ("batch tokens", f"{full * config.row_tokens:,}"),
        ("batch rows", f"{full:,}" if first == full else f"{first:,} → {full:,}"),
        ("  ramp tokens", _tokens(ramp_rows * config.row_tokens)),
        ("learning rate", f"{config.learning_rate:g}"),
        ("  warmup tokens", _tokens(config.warmup_tokens)),
        ("  decay tokens", _tokens(config.decay_tokens)),
        ("  decay to", _decay(config)),
        ("mask rate", f"{config.mask_rate:.1%}"),
        (THETAS[0], f"{config.global_rope_theta:,.0f}"),
        (THETAS[1], f"{config.local_rope_theta:,.0f}"),
        *((f"share {source}", _or_dash(config.mixture.get(source), ".2%")) for source in sources),
    ]
    if data is not None:
        figures += [(f"passes {source}", _or_dash(data.passes.get(source), ".3g")) for source in sources]
        figures.append(("fill of the rows", f"{data.fill:.3%}"))
    return figures


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _tokens(tokens: int) -> str:
    return format_tokens(tokens) if tokens else "-"


def _decay(config: PhaseConfig) -> str:
    if not config.decay_tokens:
        return "-"
    return f"{config.decay_shape} {config.learning_rate * config.final_lr_fraction:.3g}"


def _picture(plan: RunPlan, has_thetas: bool) -> Iterator[str]:
    """Yields the course of the run, from left to right; every phase has its own scale of tokens."""
    widths = _widths([phase.num_tokens for phase in plan.phases])
    highest_rate = max(phase.config.learning_rate for phase in plan.phases)
    most_rows = max(phase.segments[-1].batch_rows * phase.config.row_tokens for phase in plan.phases)

    def band(label: str, value: Callable[[PhasePlan], str], filler: str = "─") -> str:
        cells = [_cut(value(p), w).ljust(w, filler) for p, w in zip(plan.phases, widths, strict=True)]
        return f"{label:<{LABEL_WIDTH}}" + "│".join(cells)

    def bars(label: str, top: str, height: int, share: Callable[[PhasePlan, float], float]) -> Iterator[str]:
        for level in reversed(range(height)):
            cells = [
                "".join(_bar(share(p, (column + 0.5) / w), level, height) for column in range(w))
                for p, w in zip(plan.phases, widths, strict=True)
            ]
            title = label if level == height - 1 else f"  top: {top}" if level == height - 2 else ""
            yield f"{title:<{LABEL_WIDTH}}" + "│".join(cells)

    def rate(phase: PhasePlan, progress: float) -> float:
        return learning_rate(phase.config, progress * phase.num_tokens) / highest_rate

    def batch(phase: PhasePlan, progress: float) -> float:
        return _batch_rows_at(phase, progress) * phase.config.row_tokens / most_rows

    yield band("", lambda phase: phase.name, filler=" ")
    yield from bars("learning rate", f"{highest_rate:g}", 4, rate)
    yield from bars("batch tokens", f"{most_rows:,}", 2, batch)
    yield band("mask rate", lambda phase: f"{phase.config.mask_rate:.0%} ")
    if has_thetas:
        yield band(THETAS[0], lambda phase: f"{phase.config.global_rope_theta:,.0f} ")
    yield band("context tokens", lambda phase: f"{phase.config.context_tokens:,} ")
    yield band("tokens so far", lambda phase: format_tokens(phase.first_tokens), filler=" ")


def _widths(tokens: list[int]) -> list[int]:
    """Returns the columns of each phase: its share of the tokens, but wide enough to be seen."""
    columns = WIDTH - LABEL_WIDTH - (len(tokens) - 1)
    least = max(1, min(NARROWEST_PHASE, columns // len(tokens)))
    spare = max(0, columns - least * len(tokens))
    return [least + spare * amount // sum(tokens) for amount in tokens]


def _batch_rows_at(phase: PhasePlan, progress: float) -> int:
    rows = progress * phase.rows_before(phase.num_steps)
    for segment in phase.segments:
        rows -= segment.num_steps * segment.batch_rows
        if rows < 0:
            break
    return segment.batch_rows


def _bar(share: float, level: int, height: int) -> str:
    """Returns what of a bar falls into one line of the picture; `level` 0 is the lowest of `height` lines."""
    eighths = max(1, round(share * height * 8)) - level * 8
    return BARS[min(max(eighths, 0), 8)]
