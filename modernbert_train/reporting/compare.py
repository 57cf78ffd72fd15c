"""The sections of a report about several runs: their last scores, curves over each other, differing settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modernbert_train.common.tables import Cell, Column, Table
from modernbert_train.config.architecture import num_parameters
from modernbert_train.reporting import series
from modernbert_train.reporting.curves import (
    MOST_SOURCES,
    mean_held_out_loss,
    source_grid,
    training_charts,
    training_loss,
)
from modernbert_train.reporting.page import Block, Legend, Section, Text
from modernbert_train.reporting.records import RunRecord, settings_of
from modernbert_train.reporting.sections import (
    data_blocks,
    environment_blocks,
    mean,
    objective_text,
    recipe_blocks,
    remarks,
)
from modernbert_train.reporting.watched import watched_grids


@dataclass(frozen=True)
class Group:
    """Runs whose held-out losses can be compared, since they predict the same targets."""

    runs: tuple[RunRecord, ...]
    # Of the runs in all charts.
    colours: tuple[int, ...]

    @property
    def sources(self) -> list[str]:
        """The sources that all of them have scores of."""
        first, *others = self.runs
        return [source for source in first.scores if all(source in run.scores for run in others)]

    @property
    def title(self) -> str:
        """What they predict."""
        tokenizer = self.runs[0].tokenizer
        return objective_text(self.runs[0]) + (f", tokenizer {tokenizer[:8]}" if tokenizer else "")

    def unigram(self, sources: Sequence[str]) -> list[float] | None:
        """Return the unigram loss of each source, of any run that has it: the targets are the same."""
        for run in self.runs:
            known = run.unigram(run.objective)
            if all(source in known for source in sources):
                return [known[source] for source in sources]
        return None


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Group the runs that have scores by what these depend on, in the order of the runs; a group has common sources."""
    groups: list[tuple[object, Group]] = []
    for number, run in enumerate(runs):
        if not run.scores:
            continue
        # Without a tokenizer or a recipe, nothing says that the targets are the same.
        task = run.name if run.tokenizer is None or run.recipe is None else run.task
        for place, (other, group) in enumerate(groups):
            joined = Group((*group.runs, run), (*group.colours, number))
            if other == task and joined.sources:
                groups[place] = (task, joined)
                break
        else:
            groups.append((task, Group((run,), (number,))))
    return [group for _, group in groups]


def several_runs(runs: Sequence[RunRecord], benchmarks: Sequence[Section] = ()) -> list[Section]:
    """Return the sections of a report about several runs, with those of benchmarks."""
    groups, legend = group_runs(runs), _legend(runs, range(len(runs)))
    summary: list[Block] = [legend, _runs_table(runs), *(text for run in runs for text in remarks(run))]
    if len(groups) > 1:
        tasks = [group.runs[0].task for group in groups]
        keys = dict.fromkeys(key for task in tasks for key in task)
        differing = [key for key in keys if any(task.get(key) != tasks[0].get(key) for task in tasks)]
        if not set.intersection(*({*group.sources} for group in groups)):
            differing.append("sources")
        text = (
            "The held-out losses of these runs cannot all be compared: they differ in "
            f"{', '.join(differing) or 'what is known of them'}. Each of the {len(groups)} groups has its own charts "
            "and tables."
        )
        summary.append(Text(text, is_warning=True))
    sections = [Section("Summary", summary)]
    for group in groups:
        title = "Held-out loss" if len(groups) == 1 else f"Held-out loss: {group.title}"
        sections.append(Section(title, [*_loss_blocks(group)]))
    sections += [Section("Checkpoints", [*watched_grids(runs)]), *benchmarks]
    sections.append(Section("Training", [legend, training_loss(runs), *training_charts(runs)]))
    sections.append(Section("Differences of the recipes", [*_differing_settings(runs)]))
    for run in runs:
        blocks = [*recipe_blocks(run), *data_blocks(run), *environment_blocks(run)]
        sections.append(Section(run.name, blocks, is_folded=True))
    return [section for section in sections if section.blocks]


def _legend(runs: Sequence[RunRecord], colours: Sequence[int]) -> Legend:
    return Legend(tuple((run.name, run.name, colour) for run, colour in zip(runs, colours, strict=True)))


def _runs_table(runs: Sequence[RunRecord]) -> Table:
    columns = (
        Column("run"),
        Column("parameters", ","),
        Column("vocabulary", ","),
        Column("tokens", ","),
        Column("steps", ","),
        Column("of the plan", ".0%"),
        Column("tokens/s, median", ",.0f"),
        Column("hours", ",.2f"),
        Column("waiting for data", ".1%"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            run.name,
            None if run.recipe is None else num_parameters(run.recipe.model),
            None if run.recipe is None else run.recipe.model.vocab_size,
            run.tokens,
            run.last["step"],
            None if run.schedule is None else run.tokens / run.schedule.total_tokens,
            run.median("tokens_per_s"),
            series.training_hours(run.metrics),
            run.median("data_wait_share"),
        )
        for run in runs
    ]
    return Table(columns, tuple(rows))


def _loss_blocks(group: Group) -> Iterator[Block]:
    """Yield curves and last scores of a group."""
    sources = group.sources
    unigram = group.unigram(sources)
    chart = mean_held_out_loss(
        group.runs, sources, group.colours, None if unigram is None else float(np.mean(unigram))
    )
    if any(run.metrics.evaluations for run in group.runs):
        yield _legend(group.runs, group.colours)
        yield chart
    yield _last_scores(group, sources, unigram)
    if left_out := sorted({source for run in group.runs for source in run.scores} - {*sources}):
        yield Text(f"Left out, since not all runs have them: {', '.join(left_out)}.")
    if len({run.scored_step for run in group.runs}) > 1 or len({run.tokens for run in group.runs}) > 1:
        yield Text("The runs have not trained on the same number of tokens.", is_warning=True)
    if len({repr(run.recipe.data.sources) for run in group.runs if run.recipe is not None}) > 1:
        text = "The recipes name different stores: sources of one name may hold different text."
        yield Text(text, is_warning=True)
    if len(sources) > 1 and any(run.metrics.evaluations for run in group.runs):
        yield source_grid(group.runs, sources, group.colours)


def _last_scores(group: Group, sources: Sequence[str], unigram: Sequence[float] | None) -> Table:
    """Return the last losses: runs in rows, or sources in rows if they are many."""
    title, runs = "Held-out loss in the last evaluation (nats)", group.runs
    losses = [[float(run.scores[source]["loss"]) for source in sources] for run in runs]
    means = [float(np.mean(values)) for values in losses]
    baseline = "unigram baseline"
    if len(sources) > MOST_SOURCES:
        columns = [Column("source"), *(Column(run.name, ".3f") for run in runs)]
        all_losses = [[mean_loss, *values] for mean_loss, values in zip(means, losses, strict=True)]
        if unigram is not None:
            columns.append(Column(baseline, ".3f"))
            all_losses.append([float(np.mean(unigram)), *unigram])
        return Table(tuple(columns), tuple(zip(["mean", *sources], *all_losses, strict=True)), title)
    first = runs[0].name
    numbers = [Column(source, ".3f") for source in (*sources, "mean")]
    columns = [Column("run"), Column("step", ","), *numbers, Column(f"vs {first}", "+.3f")]
    rows: list[tuple[Cell, ...]] = []
    for run, values, mean_loss in zip(runs, losses, means, strict=True):
        difference = None if run is runs[0] else mean_loss - means[0]
        accuracy = mean({source: run.scores[source] for source in sources}, "accuracy")
        rows.append((run.name, run.scored_step, *values, mean_loss, difference, accuracy))
    if unigram is not None:
        rows.append((baseline, None, *unigram, float(np.mean(unigram)), None, None))
    return Table((*columns, Column("accuracy, mean", ".1%")), tuple(rows), title)


def _differing_settings(runs: Sequence[RunRecord]) -> Iterator[Block]:
    known = [run for run in runs if run.settings]
    if missing := [run.name for run in runs if not run.settings]:
        yield Text(f"Without a recipe: {', '.join(missing)}.")
    if len(known) < 2:
        return
    settings = [settings_of(run) for run in known]
    keys = dict.fromkeys(key for each in settings for key in each)
    differing = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    if differing:
        rows = tuple((key, *(_setting(each, key) for each in settings)) for key in differing)
        yield Table((Column("field"), *(Column(run.name) for run in known)), rows, "Fields that differ")
        yield Text(f"The other {len(keys) - len(differing)} fields are the same.")
    else:
        yield Text("The recipes are the same, but for the names of run and folder.")


def _setting(settings: dict[str, object], key: str) -> Cell:
    """Return a setting as YAML writes it; a dash if the recipe has no such field."""
    if key not in settings:
        return "–"
    value = settings[key]
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
