"""The scores of checkpoints by `evaluate --watch` and `probe --watch`: curves over the tokens of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modernbert_train.common.tables import Cell, Column, Table
from modernbert_train.common.types import Float64
from modernbert_train.reporting.charts import NUM_COLOURS, Chart, Series
from modernbert_train.reporting.page import Grid
from modernbert_train.reporting.records import RunRecord


@dataclass(frozen=True)
class _Kind:
    """A kind of lines in watch.jsonl."""

    title: str
    unit: str
    # Names of the score, and of what it is compared with.
    score: str
    reference: str | None
    form: str
    # Of what each chart is.
    part: str
    # Whether the scores of runs with different tokenizers can be compared.
    compares_tokenizers: bool = True


_KINDS = {
    "probe": _Kind("Probes of the checkpoints", "score; dashed: random twin", "score", "twin", ".1%", "task"),
    "bits_per_byte": _Kind(
        "Bits per byte of the checkpoints", "bits per byte", "bits_per_byte", None, ".3f", "source"
    ),
    "evaluate": _Kind(
        "Held-out loss of the checkpoints",
        "nats per target; dashed: unigram baseline",
        "loss",
        "unigram_loss",
        ".3f",
        "source",
        compares_tokenizers=False,
    ),
}


def watched_grids(runs: Sequence[RunRecord]) -> Iterator[Grid]:
    """Yield small charts for each kind of scores: one for each task or source, with a curve for each run."""
    can_compare = len({run.tokenizer for run in runs}) == 1 and len({run.objective for run in runs}) == 1
    for name, kind in _KINDS.items():
        lines = [[line for line in run.watch if line["kind"] == name] for run in runs]
        if any(lines) and (can_compare or kind.compares_tokenizers):
            yield _grid(kind, runs, lines)


def _grid(kind: _Kind, runs: Sequence[RunRecord], lines: Sequence[Sequence[Mapping[str, Any]]]) -> Grid:
    parts = dict.fromkeys(part for of_run in lines for line in of_run for part in line["scores"])
    charts = []
    rows: list[tuple[Cell, ...]] = []
    for place, part in enumerate(parts):
        curves = []
        for number, (run, of_run) in enumerate(zip(runs, lines, strict=True)):
            colour = place % NUM_COLOURS if len(runs) == 1 and len(parts) <= NUM_COLOURS else number
            x, y = _points(of_run, part, kind.score)
            if not len(y):
                continue
            curves.append(Series.of(run.name, x, y, colour, "points"))
            last: Cell = None
            if kind.reference is not None:
                x, reference = _points(of_run, part, kind.reference)
                if len(reference):
                    curves.append(
                        Series.of(
                            f"{run.name}, {kind.reference}", x, reference, colour, "reference", run.name
                        )
                    )
                    last = float(reference[-1])
            rows.append((part, run.name, len(y), float(y[0]), float(y[-1]), last))
        if curves:
            charts.append(
                Chart(
                    part,
                    kind.unit,
                    tuple(curves),
                    f"{kind.title}: {part}.",
                    kind.form,
                    x_end=float(max(run.tokens for run in runs)),
                    remark=format(float(curves[0].y[-1]), kind.form) if len(runs) == 1 else "",
                    size="small",
                )
            )
    numbers = [Column(title, kind.form) for title in ("first", "last")]
    columns = [Column(kind.part), Column("run"), Column("checkpoints"), *numbers]
    if kind.reference is None:
        rows = [row[:-1] for row in rows]
    else:
        columns.append(Column(kind.reference.replace("_", " "), kind.form))
    return Grid(f"{kind.title}: {kind.unit}", tuple(charts), Table(tuple(columns), tuple(rows)))


def _points(lines: Sequence[Mapping[str, Any]], part: str, name: str) -> tuple[Float64, Float64]:
    """Return tokens and values of a score, of the checkpoints that have it."""
    known = [(line["tokens"], (line["scores"].get(part) or {}).get(name)) for line in lines]
    points = np.array([point for point in known if point[1] is not None], dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]
