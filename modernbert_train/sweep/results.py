"""What came of a sweep: held-out scores of every finished run, over the seeds of each cell; as CSV and as Markdown.

Spread is the sample standard deviation over seeds. Runs of one seed see the same text in the same order, masked alike,
so cells are compared seed by seed: the mean and spread of the differences say more than those of the losses themselves.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modernbert_train.checkpoints.run_files import METRICS_FILE, read_metrics
from modernbert_train.common.files import write_atomically
from modernbert_train.common.text import markdown_table
from modernbert_train.config import Recipe, format_tokens
from modernbert_train.config.architecture import num_parameters
from modernbert_train.sweep.definition import Cell, Run, Sweep
from modernbert_train.sweep.state import changed_settings, read_state


@dataclass(frozen=True)
class RunResult:
    """A finished run: scores of the last evaluation by source."""

    seed: int
    tokens: int
    tokens_per_s: float  # median over the logged steps
    losses: dict[str, float]  # nats a masked token
    accuracies: dict[str, float]

    @property
    def mean_loss(self) -> float:
        """Over the sources, each counting alike."""
        return statistics.fmean(self.losses.values())

    def restricted(self, sources: list[str]) -> RunResult:
        """The same, of these sources only."""
        losses, accuracies = (
            {source: scores[source] for source in sources} for scores in (self.losses, self.accuracies)
        )
        return dataclasses.replace(self, losses=losses, accuracies=accuracies)


@dataclass(frozen=True)
class CellResult:
    """The finished runs of a cell, by seed."""

    cell: Cell
    runs: tuple[RunResult, ...]

    @property
    def parameters(self) -> int:
        """Of the model, which is the same for every seed."""
        return num_parameters(self.cell.runs[0].recipe.model)


@dataclass(frozen=True)
class Spread:
    """Mean and, of two values and more, sample standard deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """ValueError without a value."""
        known = list(values)
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)

    def text(self, form: str) -> str:
        """`4.396 ± 0.012`."""
        return format(self.mean, form) + (
            "" if self.deviation is None else f" ± {format(self.deviation, form.lstrip('+'))}"
        )


def collect(sweep: Sweep) -> list[CellResult]:
    """The results so far, of cells with a finished run, on the sources that all have. ValueError if there are none."""
    results = [
        CellResult(cell, tuple(_result(run) for run in cell.runs if read_state(run).is_finished))
        for cell in sweep.cells
    ]
    results = [result for result in results if result.runs]
    if not results:
        raise ValueError(
            f"{sweep.folder}: no run of this sweep is finished; start it, or name the --folder it is in"
        )
    shared = [
        source
        for source in results[0].runs[0].losses
        if all(source in run.losses for result in results for run in result.runs)
    ]
    if not shared:
        raise ValueError(
            f"{sweep.folder}: there is no source that every run was evaluated on; give the cells a source in common"
        )
    return [
        dataclasses.replace(result, runs=tuple(run.restricted(shared) for run in result.runs))
        for result in results
    ]


def _result(run: Run) -> RunResult:
    metrics = read_metrics(Path(run.recipe.run_folder) / METRICS_FILE)
    last = metrics.evaluations[-1]["eval"] if metrics.evaluations else {}
    return RunResult(
        seed=run.seed,
        tokens=metrics.training[-1]["tokens"],
        tokens_per_s=statistics.median(line["tokens_per_s"] for line in metrics.training),
        losses={source: scores["loss"] for source, scores in last.items()},
        accuracies={source: scores["accuracy"] for source, scores in last.items()},
    )


def differences(result: CellResult, baseline: CellResult) -> Spread | None:
    """Mean loss over the sources less that of `baseline`, seed by seed; None without a seed in common."""
    others = {run.seed: run.mean_loss for run in baseline.runs}
    paired = [run.mean_loss - others[run.seed] for run in result.runs if run.seed in others]
    return Spread.of(paired) if paired else None


def write_tables(sweep: Sweep, results: list[CellResult]) -> list[Path]:
    """`runs.csv` (a line a run), `results.csv` and `results.md` (a line a cell) in the folder of the sweep."""
    files = {
        "runs.csv": _csv(_run_rows(results)),
        "results.csv": _csv(_cell_rows(results)),
        "results.md": markdown(sweep, results),
    }
    for name, text in files.items():
        write_atomically(sweep.folder / name, text)
    return [sweep.folder / name for name in files]


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
            "tokens": max(run.tokens for run in result.runs),
            "tokens_per_s": round(statistics.median(run.tokens_per_s for run in result.runs), 1),
        }
        for name, spread in _spreads(result).items():
            row |= {name: spread.mean, f"{name}/sd": spread.deviation}
        rows.append(row)
    return rows


def _spreads(result: CellResult) -> dict[str, Spread]:
    """`loss/SOURCE`, `loss/mean`, `accuracy/SOURCE` over the seeds."""
    sources = list(result.runs[0].losses)
    losses = {f"loss/{source}": Spread.of(run.losses[source] for run in result.runs) for source in sources}
    accuracies = {
        f"accuracy/{source}": Spread.of(run.accuracies[source] for run in result.runs) for source in sources
    }
    return {**losses, "loss/mean": Spread.of(run.mean_loss for run in result.runs), **accuracies}


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(sweep: Sweep, results: list[CellResult]) -> str:
    """The results as a page: what was run, held-out losses, accuracies, and what to beware of."""
    sources = list(results[0].runs[0].losses)
    first = results[0].cell.name
    sizes = [
        [
            f"{result.parameters:,}",
            format_tokens(max(run.tokens for run in result.runs)),
            f"{statistics.median(run.tokens_per_s for run in result.runs):,.0f}",
            str(len(result.runs)),
        ]
        for result in results
    ]
    losses, accuracies = [], []
    for result, size in zip(results, sizes, strict=True):
        spreads, difference = _spreads(result), differences(result, results[0])
        of_sources = [spreads[f"loss/{source}"].text(".3f") for source in (*sources, "mean")]
        against = "" if result is results[0] or difference is None else difference.text("+.3f")
        losses.append([result.cell.name, *size, *of_sources, against])
        accuracies.append(
            [result.cell.name, *(spreads[f"accuracy/{source}"].text(".1%") for source in sources)]
        )
    columns = ["cell", "parameters", "tokens", "tokens/s", "seeds", *sources, "mean", f"less {first}"]
    lines = [
        f"# {sweep.name}",
        "",
        f"Base: `{sweep.base}`. Masked-LM loss (nats a masked token) on held-out text at the end, mean ± standard "
        f"deviation over seeds. The last column is the mean over the sources less that of {first}, seed by seed: "
        "runs of one seed see the same text in the same order.",
        "",
        markdown_table(columns, losses),
        "",
        "Accuracy on masked tokens:",
        "",
        markdown_table(["cell", *sources], accuracies),
        *(line for note in notes(sweep, results) for line in ("", note)),
    ]
    return "\n".join(lines) + "\n"


def notes(sweep: Sweep, results: list[CellResult]) -> list[str]:
    """What keeps the figures from being compared as they stand."""
    found = []
    num_runs, num_finished = len(sweep.runs), sum(len(result.runs) for result in results)
    if num_finished < num_runs:
        found.append(f"So far {num_finished} of {num_runs} runs are finished.")
    changed = {run.cell: settings for run in sweep.runs if (settings := changed_settings(run))}
    if changed:
        keys = sorted({key for of_cell in changed.values() for key in of_cell})
        found.append(
            f"The sweep was changed since: {', '.join(changed)} ran with other values of {', '.join(keys)} than it "
            "says now."
        )
    asked = [_questions(result.cell.runs[0].recipe) for result in results]
    differing = [name for name in asked[0] if any(other[name] != asked[0][name] for other in asked)]
    if differing:
        found.append(
            f"The cells were not asked the same questions: {', '.join(differing)} differ between them, and with them "
            "which tokens are masked, or what is seen around them."
        )
    if len({run.tokens for result in results for run in result.runs}) > 1:
        found.append("The cells were not trained on equal numbers of tokens.")
    return found


def _questions(recipe: Recipe) -> dict[str, object]:
    """What the held-out scores depend on beside the model."""
    last = list(recipe.phases.values())[-1]
    return {
        "evaluation.mask_rate": recipe.evaluation.mask_rate,
        "evaluation.max_rows": recipe.evaluation.max_rows,
        "masking": recipe.masking,
        "data.tokenizer": recipe.data.tokenizer,
        "data.sources": recipe.data.sources,
        "objective of the last phase": last.objective,
        "context_tokens of the last phase": last.context_tokens,
        "row_tokens of the last phase": last.row_tokens,
    }
