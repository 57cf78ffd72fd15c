"""The results of a benchmark as a Markdown page, and what `--dry-run` prints. All scores are in percent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modernbert_train.benchmark.facts import TaskFacts
from modernbert_train.benchmark.jobs import Benchmark
from modernbert_train.benchmark.published import MEAN_OF_GLUE, PublishedTable, published_key, tables_for
from modernbert_train.benchmark.results import MEAN, Results, TaskScore
from modernbert_train.common.text import format_table, markdown_table
from modernbert_train.tasks.schema import Task

# Tasks that published protocols start from a model fine-tuned on MNLI.
_FROM_MNLI = ("rte", "mrpc", "stsb")
# Above this share of leaked rows a warning stands beside the counts.
_MANY_LEAKS = 0.05


def write_page(results: Results) -> str:
    """Return the page."""
    suite = results.benchmark.suite
    sections = [
        f"# {suite.name}",
        "Mean ± standard deviation over the seeds, in percent; `-` for one seed. *weights*: of which evaluation the "
        "score is, the best on these rows or the last. *could show*: the smallest difference that the number of rows "
        "can show, in four of five tries.",
        _scores_table(results),
        *_differences(results),
        "## Rows",
        *[f"- {_rows_line(task, results.facts[name])}" for name, task in suite.tasks.items()],
        *_notes(results),
        *_published(results),
    ]
    return "\n\n".join(_joined(sections)) + "\n"


def _joined(sections: Sequence[str]) -> Iterable[str]:
    """Yield the sections, with the lines of a list as one."""
    lines: list[str] = []
    for section in sections:
        if section.startswith("- "):
            lines.append(section)
            continue
        if lines:
            yield "\n".join(lines)
            lines = []
        yield section
    if lines:
        yield "\n".join(lines)


def percent(value: float) -> str:
    """Format a score."""
    return f"{100 * value:.1f}"


def _cell(score: TaskScore | None, is_baseline: bool) -> str:
    if score is None:
        return "missing"
    value = percent(score.scores.mean)
    if is_baseline:
        return value
    spread = "-" if score.scores.spread is None else percent(score.scores.spread)
    setting = f" ({score.setting})" if score.setting else ""
    return f"{value} ± {spread}{setting}"


def _scores_table(results: Results) -> str:
    rows = []
    for name, task in results.benchmark.suite.tasks.items():
        found = [results.scores.get((column, name)) for column in results.columns]
        kept = {
            one.results[0].kept for one in found if one is not None and one.model not in results.baselines
        }
        facts = results.facts[name]
        cells = [
            "" if one is None and column in results.baselines else _cell(one, column in results.baselines)
            for column, one in zip(results.columns, found, strict=True)
        ]
        rows.append(
            [
                _task_label(task),
                task.metric,
                ", ".join(sorted(kept)),
                _num_valid(facts),
                "" if facts.smallest_difference is None else percent(facts.smallest_difference),
                *cells,
            ]
        )
    if results.means:
        means = [
            percent(results.means[column].value) if column in results.means else ""
            for column in results.columns
        ]
        rows.append([MEAN, "", "", "", "", *means])
    return markdown_table(["task", "metric", "weights", "valid rows", "could show", *results.columns], rows)


def _task_label(task: Task) -> str:
    """Name a task with what it starts from, where that matters."""
    if task.start_from is not None:
        return f"{task.name} (from {task.start_from})"
    not_from_mnli = task.kind != "retrieval" and task.retrieval is None and task.name in _FROM_MNLI
    return f"{task.name} (not from MNLI)" if not_from_mnli else task.name


def _num_valid(facts: TaskFacts) -> str:
    return " + ".join(f"{count:,}" for name, count in facts.num_rows.items() if name != "train")


def _differences(results: Results) -> list[str]:
    if not results.differences:
        return []
    rows = []
    for one in results.differences:
        low, high = (f"{100 * bound:+.1f}" for bound in one.estimate.interval)
        rows.append(
            [
                one.model,
                one.reference,
                one.task,
                f"{100 * one.estimate.value:+.1f}",
                f"{low} to {high}",
                one.estimate.verdict,
            ]
        )
    table = markdown_table(["model", "compared with", "task", "difference", "95% interval", "it is"], rows)
    return [
        "## Differences",
        "*better* or *worse* where the 95% interval excludes 0; *same*: this task cannot tell the two apart. The "
        "interval covers rows (paired bootstrap) and seeds (Student's t).",
        table,
    ]


def _rows_line(task: Task, facts: TaskFacts) -> str:
    line = f"{task.name}: {facts.num_rows.get('train', 0):,} rows to train on"
    for name, leaks in facts.leaks.items():
        many = " (many: the score is partly memory)" if leaks.share > _MANY_LEAKS else ""
        line += f"; {name}: {leaks.text}{many}"
    return line


def _notes(results: Results) -> list[str]:
    notes = []
    if results.missing:
        notes.append(
            f"- {len(results.missing)} of {len(results.benchmark.jobs)} jobs have no result yet: "
            f"{', '.join(results.missing[:20])}{', ...' if len(results.missing) > 20 else ''}."
        )
    one_seed = {
        score.task
        for score in results.scores.values()
        if score.model not in results.baselines and len(score.scores.seeds) == 1
    }
    if one_seed:
        notes.append(
            f"- One seed only ({', '.join(sorted(one_seed))}): intervals cover the rows, not how much a score changes "
            "with the seed."
        )
    if any(score.setting for score in results.scores.values()):
        notes.append(
            "- The best setting of each grid was chosen on the rows of the score, which flatters it."
        )
    if results.baselines:
        notes.append("- Compared with the best baseline of each task, which was chosen on the same rows.")
    cut: dict[str, float] = {}
    for score in results.scores.values():
        for shares in (result.cut_share for result in score.results):
            for name, share in shares.items():
                if share:
                    label = f"{score.task} {name}"
                    cut[label] = max(cut.get(label, 0.0), share)
    if cut:
        shown = ", ".join(f"{name} {share:.1%}" for name, share in cut.items())
        notes.append(
            f"- Rows that were cut, since they are longer than the model or max_tokens allows: {shown}."
        )
    return ["## Notes", *notes] if notes else []


def _published(results: Results) -> list[str]:
    """Return published scores on the same rows: a table for each protocol, that of this benchmark first."""
    tasks = results.benchmark.suite.tasks
    keys = {key: name for name, task in tasks.items() if (key := published_key(task)) is not None}
    tables = tables_for(set(keys))
    if not tables:
        return []
    own: dict[str, dict[str, float]] = {}
    for column in results.columns:
        scores = {
            key: 100 * results.scores[column, name].scores.mean
            for key, name in keys.items()
            if (column, name) in results.scores
        }
        if scores:
            own[column] = scores
    protocols = ", ".join(sorted({tasks[name].protocol or "of its own" for name in keys.values()}))
    kept = ", ".join(sorted({tasks[name].keep for name in keys.values()}))
    mine = PublishedTable("this benchmark", f"protocol: {protocols}", f"Weights: {kept}.", own)
    sections = ["## Beside published scores", "Scores of two protocols are not comparable column by column."]
    for table in [*([mine] if own else []), *tables]:
        columns = [key for key in [*keys, MEAN_OF_GLUE] if any(key in row for row in table.scores.values())]
        rows = [
            [model, *(f"{row[key]:.1f}" if key in row else "" for key in columns)]
            for model, row in table.scores.items()
        ]
        sections += [
            f"### {table.protocol[0].upper()}{table.protocol[1:]}",
            f"{table.about} ({table.source})",
            markdown_table(["model", *(key.removeprefix("glue/") for key in columns)], rows),
        ]
    return sections


def preview(benchmark: Benchmark, facts: dict[str, TaskFacts]) -> str:
    """Return what `--dry-run` prints: a line for each task, what its rows are like, and the totals."""
    rows = []
    for name, task in benchmark.suite.tasks.items():
        jobs = [job for job in benchmark.jobs if job.task.name == name]
        settings = {job.setting for job in jobs}
        known = facts[name]
        rows.append(
            [
                _task_label(task),
                task.metric,
                f"{known.num_rows.get('train', 0):,}",
                _num_valid(known),
                "?" if known.smallest_difference is None else percent(known.smallest_difference),
                f"{task.learning_rate:g}" if not task.grid.learning_rate else "grid",
                f"{task.epochs:g}" if not task.grid.epochs else "grid",
                task.keep,
                str(len(settings)),
                ", ".join(map(str, task.seeds)),
                f"{sum(job.result() is not None for job in jobs)} of {len(jobs)}",
            ]
        )
    columns = (
        "task", "metric", "train", "valid", "could show", "rate", "epochs", "weights", "settings", "seeds", "finished",
    )  # fmt: skip
    num_finished = sum(job.result() is not None for job in benchmark.jobs)
    return "\n".join(
        [
            f"{benchmark.suite.name}: {', '.join(model.name for model in benchmark.models)}",
            "",
            format_table(columns, rows),
            "",
            *[_rows_line(task, facts[name]) for name, task in benchmark.suite.tasks.items()],
            "",
            "could show: the smallest difference in percent that the valid rows can show, in four of five tries",
            f"total      {len(benchmark.jobs)} jobs, {num_finished} of them finished",
            f"folder     {benchmark.folder}",
        ]
    )
