"""The results of a sweep: held-out scores of the finished runs, over the seeds of each cell, as CSV and as a page.

Runs of one seed read the same text in the same order, with the same masks, so cells are compared seed by seed: the mean
and standard deviation of these differences say more than those of the losses.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modernbert_train.checkpoints.run_files import METRICS_FILE, read_metrics
from modernbert_train.common.files import write_atomically
from modernbert_train.common.tables import Cell as TableCell
from modernbert_train.common.tables import Column, MeanStd, Shown, Table
from modernbert_train.config import format_tokens
from modernbert_train.config.architecture import num_parameters
from modernbert_train.config.comparison import evaluation_settings
from modernbert_train.reporting.charts import DotChart, Dots
from modernbert_train.reporting.curves import MOST_SOURCES, mean_held_out_loss
from modernbert_train.reporting.page import Block, Legend, Page, Section, Text
from modernbert_train.reporting.records import read_run
from modernbert_train.reporting.writing import write_page
from modernbert_train.sweep.definition import Cell, Run, Sweep
from modernbert_train.sweep.state import changed_settings, read_state


@dataclass(frozen=True)
class RunResult:
    """The scores of a finished run in its last evaluation, by source."""

    folder: Path
    seed: int
    tokens: int
    # Median over the logged steps.
    tokens_per_s: float
    # Nats per target.
    losses: dict[str, float]
    accuracies: dict[str, float]

    @property
    def mean_loss(self) -> float:
        """The unweighted mean over the sources; there is at least one, which `collect_results` checks."""
        return statistics.fmean(self.losses.values())

    def restricted(self, sources: list[str]) -> RunResult:
        """Return the scores of some sources only."""
        losses = {source: self.losses[source] for source in sources}
        accuracies = {source: self.accuracies[source] for source in sources}
        return dataclasses.replace(self, losses=losses, accuracies=accuracies)


@dataclass(frozen=True)
class CellResult:
    """The finished runs of a cell."""

    cell: Cell
    runs: tuple[RunResult, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters of the model."""
        return num_parameters(self.cell.runs[0].recipe.model)

    @property
    def tokens(self) -> int:
        """The number of trained tokens."""
        return max(run.tokens for run in self.runs)

    @property
    def tokens_per_s(self) -> float:
        """The median speed of the runs."""
        return statistics.median(run.tokens_per_s for run in self.runs)

    def scores(self) -> dict[str, MeanStd]:
        """Return `loss/SOURCE`, `loss/mean` and `accuracy/SOURCE` over the seeds."""
        sources = list(self.runs[0].losses)
        values = {f"loss/{source}": [run.losses[source] for run in self.runs] for source in sources}
        values["loss/mean"] = [run.mean_loss for run in self.runs]
        values |= {f"accuracy/{source}": [run.accuracies[source] for run in self.runs] for source in sources}
        return {name: MeanStd.of(numbers) for name, numbers in values.items()}


def collect_results(sweep: Sweep) -> list[CellResult]:
    """Collect the finished runs of every cell.

    Returns:
        The results of cells with a finished run, with the scores of those sources that all runs have.

    Raises:
        ValueError: No run is finished, or there is no common source.
    """
    results = [
        CellResult(cell, tuple(_run_result(run) for run in cell.runs if read_state(run).is_finished))
        for cell in sweep.cells
    ]
    results = [result for result in results if result.runs]
    if not results:
        raise ValueError(
            f"{sweep.folder}: no run of this sweep is finished; start it, or set --folder to the folder it is in"
        )
    runs = [run for result in results for run in result.runs]
    common = [source for source in runs[0].losses if all(source in run.losses for run in runs)]
    if not common:
        raise ValueError(
            f"{sweep.folder}: the runs were evaluated on different sources; give all cells a source in common"
        )
    return [
        dataclasses.replace(result, runs=tuple(run.restricted(common) for run in result.runs))
        for result in results
    ]


def _run_result(run: Run) -> RunResult:
    metrics = read_metrics(Path(run.recipe.run_folder) / METRICS_FILE)
    scores = metrics.evaluations[-1]["eval"] if metrics.evaluations else {}
    return RunResult(
        folder=Path(run.recipe.run_folder),
        seed=run.seed,
        tokens=metrics.training[-1]["tokens"],
        tokens_per_s=statistics.median(line["tokens_per_s"] for line in metrics.training),
        losses={source: score["loss"] for source, score in scores.items()},
        accuracies={source: score["accuracy"] for source, score in scores.items()},
    )


def paired_difference(result: CellResult, baseline: CellResult) -> MeanStd | None:
    """Return the difference of the mean losses, seed by seed; None without a common seed."""
    baseline_losses = {run.seed: run.mean_loss for run in baseline.runs}
    paired = [run.mean_loss - baseline_losses[run.seed] for run in result.runs if run.seed in baseline_losses]
    return MeanStd.of(paired) if paired else None


def write_results(sweep: Sweep, results: list[CellResult]) -> list[Path]:
    """Write `runs.csv` (a line for each run), `results.csv` (a line for each cell) and the page `results`."""
    for name, rows in {"runs.csv": _run_rows(results), "results.csv": _cell_rows(results)}.items():
        write_atomically(sweep.folder / name, _csv(rows))
    tables = [sweep.folder / name for name in ("runs.csv", "results.csv")]
    return [*tables, *write_page(build_page(sweep, results), sweep.folder / "results.html")]


def _run_rows(results: list[CellResult]) -> list[dict[str, object]]:
    return [
        {
            "cell": result.cell.name,
            "seed": run.seed,
            "parameters": result.parameters,
            "tokens": run.tokens,
            "tokens_per_s": round(run.tokens_per_s, 1),
            **{f"loss/{source}": loss for source, loss in run.losses.items()},
            "loss/mean": run.mean_loss,
            **{f"accuracy/{source}": accuracy for source, accuracy in run.accuracies.items()},
        }
        for result in results
        for run in result.runs
    ]


def _cell_rows(results: list[CellResult]) -> list[dict[str, object]]:
    rows = []
    for result in results:
        row: dict[str, object] = {
            "cell": result.cell.name,
            "seeds": len(result.runs),
            "parameters": result.parameters,
            "tokens": result.tokens,
            "tokens_per_s": round(result.tokens_per_s, 1),
        }
        for name, score in result.scores().items():
            row |= {name: score.mean, f"{name}/sd": score.std}
        rows.append(row)
    return rows


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def build_page(sweep: Sweep, results: list[CellResult]) -> Page:
    """Return the results as a page: losses, accuracies, curves, and notes on how far they can be compared."""
    sources, groups = list(results[0].runs[0].losses), [result.cell.series for result in results]
    baseline = results[0]
    difference = f"vs {baseline.cell.name}"
    losses = [Column(source, ".3f") for source in (*sources, "mean")]
    columns = [Column("cell"), Column("parameters", ","), Column("tokens"), Column("tokens/s", ",.0f")]
    columns += [Column("seeds"), *losses, Column(difference, "+.3f")]
    rows: list[tuple[TableCell, ...]] = [
        (
            result.cell.name,
            result.parameters,
            Shown(result.tokens, format_tokens(result.tokens)),
            result.tokens_per_s,
            len(result.runs),
            *(result.scores()[f"loss/{source}"] for source in (*sources, "mean")),
            None if result is baseline else paired_difference(result, baseline),
        )
        for result in results
    ]
    accuracies: tuple[tuple[TableCell, ...], ...] = tuple(
        (result.cell.name, *(result.scores()[f"accuracy/{source}"] for source in sources))
        for result in results
    )
    text = (
        "Loss (nats per target) on held-out text at the end of training, mean ± standard deviation over seeds. The "
        f"column `{difference}` is the difference of the means over the sources, seed by seed: runs of one seed read "
        "the same text in the same order."
    )
    names = list(dict.fromkeys(groups))
    legend = [Legend(tuple((name, name, number) for number, name in enumerate(names) if name))]
    sections = [
        Section(
            "Held-out loss", [Text(text), *(legend if any(groups) else []), draw_results(sweep, results)]
        ),
        Section(
            "Scores", [Table(tuple(columns), tuple(rows)), *(Text(note) for note in _notes(sweep, results))]
        ),
        Section(
            "Accuracy", [Table((Column("cell"), *(Column(name, ".1%") for name in sources)), accuracies)]
        ),
        Section("Curves", [*_curves(results, sources)]),
    ]
    return Page(
        sweep.name,
        f"Base `{sweep.base}`, {len(results)} cells",
        [section for section in sections if section.blocks],
    )


def draw_results(sweep: Sweep, results: list[CellResult]) -> DotChart:
    """Return a panel for each source, if they are few, and one for their mean: a row for each setting."""
    sources = list(results[0].runs[0].losses)
    shown = sources if len(sources) < MOST_SOURCES else []
    panels = [*shown, *(["mean of the sources"] if len(sources) > 1 else [])]
    rows = []
    for result in results:
        values = [tuple(run.losses[source] for run in result.runs) for source in shown]
        if len(sources) > 1:
            values.append(tuple(run.mean_loss for run in result.runs))
        rows.append(Dots(result.cell.label, result.cell.series, tuple(values)))
    unit = f"nats per target; mean and standard deviation over seeds, by {sweep.axis}"
    return DotChart("Held-out loss", unit, tuple(panels), tuple(rows), f"Held-out loss of {len(rows)} cells.")


def _curves(results: list[CellResult], sources: list[str]) -> Iterator[Block]:
    """Yield the curves of all finished runs in the colours of their cells, unless they have one evaluation each."""
    runs, cells = [], []
    for number, result in enumerate(results):
        for run in result.runs:
            runs.append(read_run(run.folder, f"{result.cell.name}, seed {run.seed}"))
            cells.append((result.cell.name, number))
    if any(len(run.metrics.evaluations) > 1 for run in runs):
        yield Legend(tuple((name, name, number) for name, number in dict.fromkeys(cells)))
        keys, colours = zip(*cells, strict=True)
        yield mean_held_out_loss(runs, sources, colours, None, keys)


def _notes(sweep: Sweep, results: list[CellResult]) -> list[str]:
    """Return what makes the figures hard to compare."""
    notes = []
    num_runs, num_finished = len(sweep.runs), sum(len(result.runs) for result in results)
    if num_finished < num_runs:
        notes.append(f"So far {num_finished} of {num_runs} runs are finished.")
    changed = {run.cell: settings for run in sweep.runs if (settings := changed_settings(run))}
    if changed:
        keys = sorted({key for settings in changed.values() for key in settings})
        notes.append(
            f"The sweep file has changed: {', '.join(changed)} ran with other values of {', '.join(keys)}."
        )
    tasks = [evaluation_settings(result.cell.runs[0].recipe) for result in results]
    differing = [name for name in tasks[0] if any(task[name] != tasks[0][name] for task in tasks)]
    if differing:
        notes.append(
            f"The cells were not evaluated on the same task: {', '.join(differing)} differ, and with them the targets "
            "or their context."
        )
    if len({run.tokens for result in results for run in result.runs}) > 1:
        notes.append("The cells were trained on different numbers of tokens.")
    return notes
