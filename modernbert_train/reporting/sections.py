"""The sections of a report about one run: its figures, text, model and environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import yaml

from modernbert_train.checkpoints.provenance import changes_since
from modernbert_train.checkpoints.tables import UNIGRAM, architecture_table, phases_table, scores_table
from modernbert_train.common.tables import Cell, Column, Shown, Table
from modernbert_train.config import format_tokens
from modernbert_train.config.architecture import num_parameters
from modernbert_train.config.mixture import describe_mixture
from modernbert_train.objectives import OBJECTIVES
from modernbert_train.reporting import series
from modernbert_train.reporting.curves import loss_of_run, source_grid, training_charts
from modernbert_train.reporting.page import Block, Code, Section, Text, Tile, Tiles
from modernbert_train.reporting.records import RunRecord
from modernbert_train.reporting.watched import watched_grids

# Share of the time that a run may wait for data without a warning.
_MUCH_WAITING = 0.05
# Keys of a start in provenance.json, in the order of the table.
_ENVIRONMENT = {
    "time": "last start",
    "device": "device",
    "world_size": "ranks",
    "host": "host",
    "python": "Python",
    "git_commit": "commit",
    "code": "hash of the package's files",
}


def single_run(run: RunRecord, benchmarks: Sequence[Section] = ()) -> list[Section]:
    """Return the sections of a report about one run, with those of benchmarks."""
    sections = [
        Section("Summary", [tiles(run), *remarks(run)]),
        Section("Loss", [*_loss_blocks(run)]),
        Section("Checkpoints", [*watched_grids([run])]),
        *benchmarks,
        Section("Training", [*training_charts([run])]),
        Section("Data", [*data_blocks(run)]),
        Section("Model and recipe", [*recipe_blocks(run)]),
        Section("Environment", [*environment_blocks(run)]),
    ]
    return [section for section in sections if section.blocks]


def describe_run(run: RunRecord) -> str:
    """Return in a line what was trained, and how far."""
    parts = []
    if run.recipe is not None:
        model = run.recipe.model
        parts.append(
            f"{format_tokens(num_parameters(model), digits=3)} parameters, {model.num_hidden_layers} layers of "
            f"{model.hidden_size:,}, vocabulary {model.vocab_size:,}"
        )
    done = f"{format_tokens(run.tokens, digits=3)} tokens in {run.last['step']:,} steps"
    if run.schedule is not None:
        total = run.schedule.total_tokens
        done += (
            ", finished"
            if run.is_finished
            else f", {run.tokens / total:.0%} of {format_tokens(total, digits=3)}"
        )
    parts.append(done)
    if when := run.last.get("time"):
        parts.append(f"last step {str(when).replace('T', ' ').replace('Z', ' UTC')}")
    return " · ".join(parts)


def mean(scores: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a score over the sources; None unless all have it."""
    values = [score.get(name) for score in scores.values()]
    return None if not values or None in values else float(np.mean(np.array(values, dtype=np.float64)))


def tiles(run: RunRecord) -> Tiles:
    """Return the figures that stand for a run."""
    scores, found = run.scores, []
    loss, unigram, accuracy = (mean(scores, name) for name in ("loss", "unigram_loss", "accuracy"))
    if loss is not None:
        of = next(iter(scores)) if len(scores) == 1 else f"mean of {len(scores)} sources"
        found.append(Tile("Held-out loss", f"{loss:.3f}", f"nats, {of}"))
    if loss is not None and unigram is not None:
        found.append(Tile("Below unigram", f"{unigram - loss:+.2f}", f"nats; unigram {unigram:.3f}"))
    if accuracy is not None:
        baseline = mean(scores, "unigram_accuracy")
        found.append(
            Tile("Accuracy", f"{accuracy:.1%}", "" if baseline is None else f"baseline {baseline:.1%}")
        )
    steps = f"in {run.last['step']:,} steps"
    total = "" if run.schedule is None else f"of {format_tokens(run.schedule.total_tokens, digits=3)}, "
    found.append(Tile("Tokens", format_tokens(run.tokens, digits=3), total + steps))
    if (hours := series.training_hours(run.metrics)) is not None:
        found.append(Tile("Training time", _duration(hours), "evaluation and stops aside"))
    if (speed := run.median("tokens_per_s")) is not None:
        found.append(Tile("Tokens per second", format_tokens(speed, digits=3), "median"))
    if (waiting := run.median("data_wait_share")) is not None:
        found.append(Tile("Waiting for data", f"{waiting:.1%}", "of the time, median"))
    return Tiles(tuple(found))


def _duration(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60:,}:{minutes % 60:02} h" if minutes >= 60 else f"{hours * 60:.3g} min"


def remarks(run: RunRecord) -> Iterator[Text]:
    """Yield what a reader should know about the figures of a run."""
    yield from (Text(f"{run.name}: {problem}.", is_warning=True) for problem in run.problems)
    scores = run.scores
    if worse := [name for name, score in scores.items() if score["loss"] > score.get("unigram_loss", np.inf)]:
        text = "worse than the unigram baseline, which only knows how frequent tokens are"
        yield Text(f"{run.name}, {', '.join(worse)}: {text}.", is_warning=True)
    waiting = run.median("data_wait_share")
    if waiting is not None and waiting > _MUCH_WAITING:
        text = f"{run.name} waits for data in {waiting:.0%} of the time: raise data.num_workers, or use a faster disk."
        yield Text(text, is_warning=True)
    if not scores:
        yield Text(
            f"{run.name} has no held-out scores yet: they come at the end of each phase, every "
            "evaluation.every_tokens tokens, and from `modernbert evaluate`."
        )
    elif mean(scores, "unigram_loss") is None:
        yield Text(f"{run.name}: `modernbert evaluate` adds the unigram baseline of the last checkpoint.")
    skipped = run.launches[-1].get("skipped") if run.launches else None
    if isinstance(skipped, dict) and any(skipped.values()):
        parts = [f"{kind} {', '.join(map(str, entries))}" for kind, entries in skipped.items() if entries]
        yield Text(f"{run.name} has skipped data: {'; '.join(parts):.500}.")


def _loss_blocks(run: RunRecord) -> Iterator[Block]:
    legend, chart = loss_of_run(run)
    if chart.is_empty:
        yield Text("No logged step had a token to predict, so there is no loss.", is_warning=True)
    else:
        yield from (legend, chart)
    if len(run.sources) > 1 and run.metrics.evaluations:
        yield source_grid([run], run.sources)
    if run.scores:
        title = f"Held-out scores after step {run.scored_step:,}: {objective_text(run)}"
        yield dataclasses.replace(scores_table(run.scores), title=title)
        if mean(run.scores, "unigram_loss") is not None:
            yield Text(UNIGRAM)


def objective_text(run: RunRecord) -> str:
    """Return in words what the held-out scores of a run are of."""
    objective = OBJECTIVES.get(run.objective)
    if objective is None or run.recipe is None or run.scored_context is None:
        return f"objective {run.objective}"
    rate = f"{run.recipe.evaluation.mask_rate:.0%} " if objective.reads_mask_rate else ""
    return f"{rate}{objective.title}, documents of up to {run.scored_context[0]:,} tokens"


def data_blocks(run: RunRecord) -> Iterator[Block]:
    """Yield which text a run has read: the share of each source, planned in each phase and read so far."""
    read = series.source_tokens(run.metrics)
    phases = {} if run.recipe is None else run.settings["phases"]
    mixtures = {name: phase["mixture"] for name, phase in phases.items()}
    planned = {
        name: mixture for name, mixture in mixtures.items() if not {"epochs", "temperature"} & {*mixture}
    }
    counts = [*planned.values(), *read.values()]
    sources = list(dict.fromkeys(source for part in counts for source in part))
    if not sources:
        return
    whole = sum(sum(part.values()) for part in read.values())
    columns = [Column("source"), *(Column(f"{name}, planned", ".1%", bar=True) for name in planned)]
    if read:
        columns += [Column("tokens read", ","), Column("share read", ".1%", bar=True)]
    rows = []
    for source in sources:
        cells: list[Cell] = [source]
        cells += [mixture.get(source, 0.0) / sum(mixture.values()) for mixture in planned.values()]
        if read:
            tokens = sum(part.get(source, 0) for part in read.values())
            cells += [tokens, tokens / max(1, whole)]
        rows.append(tuple(cells))
    yield Table(tuple(columns), tuple(rows))
    if read:
        yield Text(
            f"Read: {format_tokens(whole, digits=3)} tokens of text, without special tokens and padding."
        )
    for name, mixture in mixtures.items():
        if name not in planned:
            yield Text(f"Mixture of {name}: {describe_mixture(mixture)}.")


def recipe_blocks(run: RunRecord) -> Iterator[Block]:
    """Yield architecture, phases and the whole recipe of a run."""
    if run.recipe is not None:
        last = list(run.recipe.phases.values())[-1]
        yield architecture_table(run.recipe.model, (last.global_rope_theta, last.local_rope_theta))
        yield phases_table(run.settings["phases"])
        optimizer, start = run.recipe.optimizer, run.recipe.init.from_ or "random weights"
        first, second = optimizer.betas
        yield Text(
            f"Optimizer {optimizer.name} with betas {first:g} and {second:g}, weight decay {optimizer.weight_decay:g}; "
            f"seed {run.recipe.seed}. Training starts from {start}."
        )
    if run.settings:
        text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True, width=110)
        yield Code("The complete recipe", text)


def environment_blocks(run: RunRecord) -> Iterator[Block]:
    """Yield where and with what a run was trained, and what changed between its starts."""
    if not run.launches:
        return
    last = run.launches[-1]
    facts: dict[str, Cell] = {
        title: str(last[key]) for key, title in _ENVIRONMENT.items() if last.get(key) is not None
    }
    packages = last.get("packages")
    facts |= (
        {str(name): str(version) for name, version in packages.items()} if isinstance(packages, dict) else {}
    )
    if isinstance(command := last.get("command"), list):
        facts["command"] = " ".join(map(str, command))
    if (memory := run.last.get("peak_memory_gib")) is not None:
        facts["peak memory of rank 0"] = Shown(memory, f"{memory:.2f} GiB")
    yield Table.of_facts(facts)
    if len(run.launches) > 1:
        yield Text(f"The run was started {len(run.launches)} times.")
    changes = [
        (str(now.get("time", "")), change)
        for before, now in pairwise(run.launches)
        for change in changes_since(before, {**dict.fromkeys(_ENVIRONMENT), "packages": {}, **now})
    ]
    if changes:
        yield Table((Column("start"), Column("change")), tuple(changes), "What changed between the starts")
