"""`modernbert train RECIPE --dry-run`: a run in figures, without training: parameters, steps, disk, and a timeline.

The text is as wide as the terminal, from 40 to 80 columns. Most of it follows from the recipe alone; epochs over each
source and the fill of the rows need the stores.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modernbert_train.common.text import page_width
from modernbert_train.config import (
    InitConfig,
    MixtureConfig,
    PhaseConfig,
    Recipe,
    format_bytes,
    format_tokens,
    validate,
)
from modernbert_train.config.architecture import describe_few_tokens, describe_model
from modernbert_train.config.cache import open_cache
from modernbert_train.config.schema import OPTIMIZERS
from modernbert_train.data.inputs import open_inputs, plan_rows
from modernbert_train.data.sharing import BatchShare, most_streams, share_batch
from modernbert_train.objectives import build_objective
from modernbert_train.planning.cost import (
    checkpoint_bytes,
    checkpoints_on_disk_bytes,
    describe_hours,
    estimate_tokens_per_s,
    format_hours,
    gpu_hours,
)
from modernbert_train.planning.source_stats import (
    PhaseStats,
    SourceStats,
    lost_text_warnings,
    phase_stats,
    repetitions,
    texts_of,
    whole_run,
)
from modernbert_train.planning.timeline import LABEL_WIDTH, THETAS, cut, draw
from modernbert_train.schedule import PhaseSchedule, RunSchedule, build_schedule
from modernbert_train.store.lost_text import TextCounts, describe_text
from modernbert_train.store.manifest import load_tokenizer_info
from modernbert_train.store.opening import open_tokenizer

if TYPE_CHECKING:
    from modernbert_train.planning.cpu_speed import CpuSpeed  # torch, which most of a dry run does without

SOURCE_WIDTHS = (8, 10, 9, 13)  # columns of share, tokens, epochs and documents
PHASE_WIDTH = 15  # columns of a phase in the table, at least


@dataclass(frozen=True)
class DryRun:
    """What is known of a run before its first step."""

    # Lines that fit the terminal.
    text: str
    # Why the recipe cannot be trained on this machine; empty if it can.
    problems: list[str]


def describe(
    recipe: Recipe,
    schedule: RunSchedule,
    data: list[PhaseStats] | None = None,
    tokens_per_s: float | None = None,
    texts: Mapping[str, TextCounts | None] | None = None,
    cpu_speed: "CpuSpeed | None" = None,
    num_ranks: int | None = None,
) -> str:
    """Describe a run in figures.

    Args:
        recipe: the recipe of the run.
        schedule: its schedule.
        data: statistics of each phase, if the stores could be opened.
        tokens_per_s: speed of a GPU, for the hours; None: estimated, unless the recipe is for a CPU.
        texts: what the tokenizer made of the text of each source, if the stores could be opened.
        cpu_speed: speed of this machine, if it would train on its CPU.
        num_ranks: number of ranks, for what each of them does; None: not shown.

    Returns:
        Lines that fit the terminal, of at most 80 columns.
    """
    alone = f", phase {recipe.phase} alone" if recipe.phase else ""
    lines = [
        f"{recipe.name}{alone}: {format_tokens(schedule.total_tokens)} tokens in {schedule.total_steps:,} steps",
        "",
        *(
            line
            for label, text in _summary(recipe, schedule, tokens_per_s, cpu_speed, num_ranks).items()
            for line in _entry(label, text)
        ),
        "",
        *_tables(recipe, schedule, data, tokens_per_s, num_ranks),
        *(_sources(recipe, schedule, data) if data else ()),
        *draw(schedule, has_thetas=recipe.model.positions == "rope"),
        *_texts(texts or {}),
        *_notes(recipe, schedule),
        *(
            _warnings([*repetitions(data, recipe.data.warn_epochs), *lost_text_warnings(texts or {})])
            if data
            else ()
        ),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _summary(
    recipe: Recipe,
    schedule: RunSchedule,
    tokens_per_s: float | None,
    cpu_speed: "CpuSpeed | None",
    num_ranks: int | None,
) -> dict[str, str]:
    model, data, optimizer, training = recipe.model, recipe.data, recipe.optimizer, recipe.training
    clip, optimizer_name = optimizer.gradient_clip_norm, OPTIMIZERS[optimizer.name].display_name
    saves = schedule.estimate_num_due(training.save_every_tokens)
    each_bytes = checkpoint_bytes(recipe)
    return {
        "model": describe_model(model),
        "start": _start(recipe.init),
        "optimizer": f"{optimizer_name}, betas {optimizer.betas[0]:g} and {optimizer.betas[1]:g}, eps "
        f"{optimizer.eps:g}, "
        + ("gradients not clipped" if clip is None else f"gradients clipped at norm {clip:g}"),
        "data": f"tokenizer {data.tokenizer}, {_count(data.num_streams, 'stream')}, shuffle blocks of "
        f"{_count(data.shuffle_rows, 'row')}, {_count(data.num_workers, 'worker')} per rank",
        **({} if num_ranks is None else {"ranks": _ranks(data.num_streams, num_ranks)}),
        **_skipped(recipe, schedule),
        "masking": f"{recipe.masking.mask_fraction:.0%} [MASK], {recipe.masking.random_fraction:.0%} random, "
        f"{max(0, 1 - recipe.masking.mask_fraction - recipe.masking.random_fraction):.0%} kept",
        "evaluation": f"about {_count(schedule.estimate_num_due(recipe.evaluation.every_tokens), 'time')}, "
        f"{_held_out(recipe)}, about {_count(recipe.evaluation.max_rows, 'row')} of each source",
        "checkpoints": f"about {saves:,} saved, {format_bytes(each_bytes)} each; the newest "
        f"{training.keep_checkpoints} and the last of each phase are kept: up to "
        f"{format_bytes(checkpoints_on_disk_bytes(recipe, schedule))} on disk"
        + (", with a moving average of the weights" if training.ema_half_life_tokens else ""),
        **(
            {"hours": describe_hours(model, schedule, tokens_per_s)} if _on_gpus(recipe, tokens_per_s) else {}
        ),
        **({} if cpu_speed is None else {"time here": cpu_speed.describe(schedule)}),
        "run folder": f"{recipe.run_folder}, seed {recipe.seed}",
    }


def _ranks(num_streams: int, num_ranks: int) -> str:
    most, fewest = most_streams(num_streams, num_ranks), num_streams // num_ranks
    if most == fewest:
        return f"{num_ranks:,}, each with {_count(most, 'stream')}"
    with_more = num_streams % num_ranks
    return f"{with_more:,} with {_count(most, 'stream')}, {num_ranks - with_more:,} with {fewest:,}"


def _on_gpus(recipe: Recipe, tokens_per_s: float | None) -> bool:
    """Return whether figures of GPUs say something: a recipe for the CPU has none, unless their speed is given."""
    return recipe.training.device != "cpu" or tokens_per_s is not None


def _held_out(recipe: Recipe) -> str:
    """Return what is predicted on held-out text, such as `next token and 15% masked`."""
    names = dict.fromkeys(phase.objective for phase in recipe.phases.values())
    return " and ".join(build_objective(name, recipe.evaluation).describe() for name in names)


def _start(init: InitConfig) -> str:
    if init.from_ is None:
        return "random weights"
    steps = [f"weights of {init.from_}"]
    steps += ["transplanted onto this tokenizer"] * init.transplant
    if init.method != "copy":
        steps.append(f"made larger by {init.method}" + (", rescaled" if init.rescale else ""))
    return ", ".join(steps)


def _skipped(recipe: Recipe, schedule: RunSchedule) -> dict[str, str]:
    """Return the entry for skipped data, or none if the recipe skips nothing."""
    skip = recipe.data.skip
    documents = [*skip.documents, *([f"the list in {skip.documents_file}"] if skip.documents_file else [])]
    parts = []
    if schedule.skipped:
        parts.append(f"{_count(sum(map(len, schedule.skipped)), 'step')} ({', '.join(skip.steps)})")
    if documents:
        parts.append(f"documents {', '.join(documents)}")
    return {"skipped": "; ".join(parts)} if parts else {}


def _entry(label: str, text: str) -> Iterator[str]:
    """Yield `text` wrapped beside its label."""
    yield from _wrapped(text, f"{label:<13}", " " * 13)


def _wrapped(text: str, start: str, indent: str) -> Iterator[str]:
    """Yield `text` in lines that fit the terminal; `start` begins the first one."""
    line, width = start, page_width()
    for word in text.split():
        if len(line) + len(word) > width:
            yield line.rstrip()
            line = indent
        line += word + " "
    yield line.rstrip()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _tables(
    recipe: Recipe,
    schedule: RunSchedule,
    data: list[PhaseStats] | None,
    tokens_per_s: float | None,
    num_ranks: int | None,
) -> Iterator[str]:
    """Yield a column of figures for each phase, a few phases side by side."""
    columns = [
        _figures(
            phase,
            tokens_per_s or estimate_tokens_per_s(recipe.model, phase)
            if _on_gpus(recipe, tokens_per_s)
            else None,
            list(recipe.data.sources),
            data[phase.index] if data else None,
            None if num_ranks is None else share_batch(phase.config, recipe.data.num_streams, num_ranks),
        )
        for phase in schedule.phases
    ]
    if recipe.model.positions != "rope":
        columns = [[cell for cell in column if cell[0] not in THETAS] for column in columns]
    space = page_width() - LABEL_WIDTH
    side_by_side = min(len(columns), space // PHASE_WIDTH)
    width = space // side_by_side
    for first in range(0, len(columns), side_by_side):
        chosen = columns[first : first + side_by_side]
        for cells in zip(*chosen, strict=True):
            label = cut(cells[0][0], LABEL_WIDTH - 1)
            yield f"{label:<{LABEL_WIDTH}}" + "".join(f"{cut(cell, width - 1):>{width}}" for _, cell in cells)
            if label == "phase":
                yield "─" * (LABEL_WIDTH + width * len(chosen))
        yield ""


def _figures(
    phase: PhaseSchedule,
    speed: float | None,
    sources: list[str],
    data: PhaseStats | None,
    share: BatchShare | None,
) -> list[tuple[str, str]]:
    """Return labels and figures of one phase; `-` marks a setting that it does not use. `speed` None: no GPU."""
    config = phase.config
    rows = phase.rows_before(phase.num_steps)
    ramp_rows = rows - phase.step_ranges[-1].num_steps * phase.step_ranges[-1].batch_rows
    first, full = phase.step_ranges[0].batch_rows, phase.step_ranges[-1].batch_rows
    figures = [
        ("phase", phase.name),
        ("tokens", format_tokens(phase.num_tokens)),
        ("steps", f"{phase.num_steps:,}"),
        *(
            ()
            if speed is None
            else [
                ("tokens/s per GPU", f"{speed:,.0f}"),
                ("GPU-hours", format_hours(gpu_hours(phase, speed))),
            ]
        ),
        ("last checkpoint", f"step-{phase.first_step + phase.num_steps:08d}"),
        ("rows", f"{rows:,}"),
        ("context tokens", f"{config.context_tokens:,}"),
        ("row tokens", f"{config.row_tokens:,}"),
        ("micro-batch tokens", f"{config.micro_batch_tokens:,}"),
        ("batch tokens", f"{full * config.row_tokens:,}"),
        ("batch rows", f"{full:,}" if first == full else f"{first:,} → {full:,}"),
        *(() if share is None else _share_figures(share)),
        ("  ramp tokens", _tokens(ramp_rows * config.row_tokens)),
        ("learning rate", f"{config.learning_rate:g}"),
        ("  warmup tokens", _tokens(config.warmup_tokens)),
        ("  decay tokens", _tokens(config.decay_tokens)),
        ("  decay to", _decay(config)),
        ("weight decay", f"{phase.weight_decay:g}"),
        ("objective", phase.objective.describe()),
        (THETAS[0], f"{config.global_rope_theta:,.0f}"),
        (THETAS[1], f"{config.local_rope_theta:,.0f}"),
    ]
    if data is not None:  # the sources have a table of their own
        return [*figures, ("fill of the rows", f"{data.fill:.3%}")]
    return figures + [(f"share {source}", _share(config.mixture, source)) for source in sources]


def _share_figures(share: BatchShare) -> Iterator[tuple[str, str]]:
    """Yield labels and figures of what each rank does of a full batch."""
    fewer = "" if share.fewest_rows == share.most_rows else f"{share.fewest_rows:,} or "
    yield "  rows of a rank", f"{fewer}{share.most_rows:,}"
    yield "  micro-batches", f"{share.num_micro_batches:,} x {share.micro_batch_rows:,} rows"
    yield "  padding rows", f"{share.padding:.1%}"


def _share(mixture: MixtureConfig, source: str) -> str:
    """Return what the recipe sets for a source. Shares from epochs or temperature depend on the stores."""
    if source in mixture.shares:
        return f"{mixture.shares[source]:.2%}"
    if source in mixture.epochs:
        return f"{mixture.epochs[source]:g} x tokens"
    in_all = mixture.temperature is not None and mixture.sources is None
    if in_all or source in (mixture.sources or ()):
        return f"tokens^{mixture.temperature:g}"
    return "-"


def _sources(recipe: Recipe, schedule: RunSchedule, data: list[PhaseStats]) -> Iterator[str]:
    """Yield the table of what each phase, and the whole run, reads of each source."""
    yield _source_line("source", "phase", ("share", "tokens", "epochs", "documents"))
    yield "─" * page_width()
    for source, whole in whole_run(data).items():
        label = source
        for phase, stats in zip(schedule.phases, data, strict=True):
            if source in stats.sources:
                yield _source_line(label, phase.name, _source_figures(stats.sources[source]))
                label = ""
        if len(data) > 1:
            yield _source_line("", "whole run", _source_figures(whole))
    for source in recipe.data.sources:
        if all(source not in stats.sources for stats in data):
            yield from _wrapped(f"{source} is not trained on: in no phase's mixture", "", "  ")
    yield ""


def _source_figures(part: SourceStats) -> tuple[str, str, str, str]:
    return f"{part.share:.2%}", format_tokens(part.tokens), f"{part.epochs:.3g}", f"{part.documents:,}"


def _source_line(source: str, phase: str, figures: tuple[str, str, str, str]) -> str:
    """Return a line of the table; a narrow terminal has no room for the documents."""
    page = page_width()
    widths = SOURCE_WIDTHS if page >= 60 else SOURCE_WIDTHS[:-1]
    name = (page - sum(widths)) // 2
    cells = "".join(f"{cell:>{width}}" for cell, width in zip(figures, widths, strict=False))
    return f"{cut(source, name - 1):<{name}}{cut(phase, name - 1):<{name}}{cells}"


def _texts(texts: Mapping[str, TextCounts | None]) -> Iterator[str]:
    """Yield what the tokenizer made of the text of each source."""
    if texts:
        yield ""
    for source, counts in texts.items():
        yield from _entry("text", f"{source}: {describe_text(counts)}")


def _notes(recipe: Recipe, schedule: RunSchedule) -> Iterator[str]:
    if recipe.init.from_ is None and (few := describe_few_tokens(recipe.model, schedule.total_tokens)):
        yield ""
        yield from _entry("note", few)


def _warnings(warnings: list[str]) -> Iterator[str]:
    for warning in warnings:
        yield ""
        yield from _entry("WARNING", warning)


def _tokens(tokens: int) -> str:
    return format_tokens(tokens) if tokens else "-"


def _decay(config: PhaseConfig) -> str:
    if not config.decay_tokens:
        return "-"
    return f"{config.learning_rate * config.final_lr_fraction:.3g} ({config.decay_shape})"


def dry_run(recipe: Recipe, tokens_per_s: float | None = None, num_ranks: int | None = None) -> DryRun:
    """Describe what is known of a run before its first step, and find what keeps it from starting.

    Args:
        recipe: the recipe of the run.
        tokens_per_s: speed of a GPU, for the hours; None: estimated.
        num_ranks: number of ranks, for what each of them does; None: not shown.

    Returns:
        The text, which begins with the problems if there are any, and the problems.
    """
    problems = _device_problems(recipe)
    if num_ranks is not None and (too_many := validate(recipe, num_ranks)):
        problems += too_many
        num_ranks = None
    schedule = build_schedule(recipe)
    data = texts = None
    try:
        inputs = open_inputs(recipe)
        with closing(inputs.reader):
            data = phase_stats(schedule, plan_rows(recipe, schedule, inputs))
            texts = texts_of(recipe, inputs.manifests)
    except ValueError as error:
        problems += str(error).splitlines()
    start = ""
    try:
        start = _describe_start(recipe)
    except ValueError as error:
        problems += [line for line in str(error).splitlines() if line not in problems]
    # A speed given is one of a GPU; and a run that cannot start takes no time.
    cpu_speed = None if problems or tokens_per_s is not None else _cpu_speed(recipe, schedule)
    run = describe(recipe, schedule, data, tokens_per_s, texts, cpu_speed, num_ranks)
    return DryRun("\n\n".join(filter(None, [_not_ready(problems), run, start])), problems)


def _not_ready(problems: list[str]) -> str:
    lines = [line for problem in problems for line in _wrapped(problem, "  - ", "    ")]
    return "\n".join(["not ready to train:", *lines]) if problems else ""


def _device_problems(recipe: Recipe) -> list[str]:
    """Return why this machine lacks what the recipe asks for by name. What is `auto` adapts to the machine."""
    if recipe.training.device != "gpu" and recipe.training.attention_backend in ("auto", "torch"):
        return []
    from modernbert_train.model import resolve_backend
    from modernbert_train.planning.device import resolve_device

    try:
        device = resolve_device(recipe)
        resolve_backend(recipe.training.attention_backend, "cuda" if device == "gpu" else "cpu")
    except ValueError as error:
        return [str(error)]
    return []


def _cpu_speed(recipe: Recipe, schedule: RunSchedule) -> "CpuSpeed | None":
    from modernbert_train.planning.cpu_speed import measure_cpu
    from modernbert_train.planning.device import resolve_device

    return measure_cpu(recipe, schedule) if resolve_device(recipe) == "cpu" else None


def _describe_start(recipe: Recipe) -> str:
    if recipe.init.from_ is None:
        return ""
    from modernbert_train.checkpoints.initial import describe_changes, describe_start, plan_start

    tokenizer = load_tokenizer_info(open_tokenizer(recipe.data.tokenizer, open_cache(recipe.data)))
    start = plan_start(recipe, tokenizer)
    return "\n".join([*describe_start(start), *describe_changes(start, next(iter(recipe.phases.values())))])
