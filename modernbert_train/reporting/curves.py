"""The charts of a report: losses, and how runs were trained. Several runs lie over each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from modernbert_train.common.tables import Cell, Column, Table
from modernbert_train.common.types import Float64
from modernbert_train.config import format_tokens
from modernbert_train.reporting import series
from modernbert_train.reporting.charts import GREY, NUM_COLOURS, Band, Chart, Series
from modernbert_train.reporting.page import Grid, Legend
from modernbert_train.reporting.records import RunRecord
from modernbert_train.reporting.series import column

# Most sources that have a curve of their own in one chart; of more, each has a chart.
MOST_SOURCES = NUM_COLOURS
# Of a chart with fewer logged steps, the start is shown too, in which the loss falls from that of random weights.
_MANY_STEPS = 50
_TRAINING, _MEAN, _UNIGRAM = "training", "mean of the sources", "unigram baseline"
# Metrics of a logged step: title, unit, format.
_METRICS = {
    "grad_norm": ("Gradient norm", "before clipping, logarithmic", ".3g"),
    "tokens_per_s": ("Throughput", "tokens per second", "tokens"),
    "data_wait_share": ("Waiting for data", "share of the time", ".2%"),
    "mfu": ("Model FLOPs utilization", "share of the device's peak", ".1%"),
}


def loss_of_run(run: RunRecord) -> tuple[Legend, Chart]:
    """Return the training loss and the held-out loss of each source, or of their mean if they are many."""
    sources, evaluations = run.sources, run.metrics.evaluations
    tokens, loss = column(run.metrics.training, "tokens"), column(run.metrics.training, "loss")
    curves = [
        Series.of("training, as logged", tokens, loss, style="raw", key=_TRAINING),
        Series.of("training, smoothed", *series.smooth_by_phase(run.metrics.training, loss), key=_TRAINING),
    ]
    if len(sources) <= MOST_SOURCES:
        held_out = {source: series.held_out(evaluations, source) for source in sources}
    else:
        held_out = {_MEAN: series.mean_held_out(evaluations, sources)}
    for number, (name, points) in enumerate(held_out.items()):
        curves.append(Series.of(name, *points, number, "points"))
    items: list[tuple[str, str, int | None]] = [(_TRAINING, _TRAINING, GREY)]
    items += [(name, name, number) for number, name in enumerate(held_out)]
    if unigram := run.unigram(run.objective):
        name = _UNIGRAM if len(unigram) == 1 else f"{_UNIGRAM}, {_MEAN}"
        curves.append(_reference(name, float(np.mean(list(unigram.values()))), *_span(run), _UNIGRAM))
        items.append((_UNIGRAM, name, None))
    chart = Chart(
        "Training and held-out loss" if evaluations else "Training loss",
        "nats per target; held out: dots" if evaluations else "nats per target",
        _known(curves),
        f"Training loss, and held-out loss of {len(sources)} sources, over {format_tokens(run.tokens, digits=3)} "
        "trained tokens.",
        bands=run.bands(),
        x_end=float(run.tokens),
        y_range=_without_start(curves) if len(loss) >= _MANY_STEPS else None,
    )
    return Legend(tuple(items)), chart


def _known(curves: Sequence[Series]) -> tuple[Series, ...]:
    return tuple(curve for curve in curves if np.isfinite(curve.y).any())


def _reference(name: str, value: float, start: float, end: float, key: str = "") -> Series:
    """Return a value to compare with, as a horizontal line."""
    return Series.of(name, [start, end], [value, value], GREY, "reference", key)


def _span(run: RunRecord) -> tuple[float, float]:
    """Return the tokens from the first to the last phase with the objective of the unigram baseline."""
    phases = [band for band, objective in run.phases() if objective == run.objective]
    return (phases[0].start, phases[-1].end) if phases else (0.0, float(run.tokens))


def _without_start(curves: Sequence[Series]) -> tuple[float, float] | None:
    """Return limits that leave out the steepest 2% of the smoothed curves, and no other line; None without values."""
    smoothed = np.concatenate([curve.y for curve in curves if curve.style == "line"])
    if not np.isfinite(smoothed).any():
        return None
    others = np.concatenate(
        [np.empty(0), *(curve.y for curve in curves if curve.style in ("points", "reference"))]
    )
    low = float(np.nanmin(np.concatenate([smoothed, others])))
    high = max(float(np.nanquantile(smoothed, 0.98)), float(np.nanmax(others, initial=-np.inf)))
    margin = 0.06 * (high - low) or 0.1
    return max(0.0, low - margin), high + margin


def source_grid(
    runs: Sequence[RunRecord], sources: Sequence[str], colours: Sequence[int] | None = None
) -> Grid:
    """Return a small chart of the held-out loss for each source: a curve for each run, and the unigram baseline.

    Args:
        runs: Whose losses can be compared.
        sources: Those to show.
        colours: Of the runs; None: there is one run, and its sources have colours of their own if they are few.
    """
    is_single = colours is None
    rows: list[tuple[Cell, ...]] = []
    charts = []
    for place, source in enumerate(sources):
        curves = []
        for run, colour in zip(runs, colours or [0], strict=True):
            if is_single and len(sources) <= MOST_SOURCES:
                colour = place
            name = source if is_single else run.name
            curves.append(
                Series.of(name, *series.held_out(run.metrics.evaluations, source), colour, "points")
            )
        ends = [(float(curve.y[0]), float(curve.y[-1])) if len(curve.y) else (None, None) for curve in curves]
        baselines = [run.unigram(run.objective).get(source) for run in runs]
        for run, (first, last), baseline in zip(runs, ends, baselines, strict=True):
            rows.append((*((source,) if is_single else (source, run.name)), first, last, baseline))
        known = [last for _, last in ends if last is not None]
        baseline = next((value for value in baselines if value is not None), None)
        if known:
            if baseline is not None:
                curves.append(_reference(_UNIGRAM, baseline, *_span(runs[0])))
            charts.append(
                Chart(
                    source,
                    "nats per target",
                    _known(curves),
                    f"Held-out loss of {source} over trained tokens.",
                    bands=tuple(Band("", band.start, band.end) for band in runs[0].bands())
                    if is_single
                    else (),
                    x_end=float(max(run.tokens for run in runs)),
                    remark=f"{min(known):.3f}" if is_single else f"best {min(known):.3f}",
                    size="small",
                )
            )
    titles = ["source"] if is_single else ["source", "run"]
    losses = [Column(title, ".3f") for title in ("first loss", "last loss", "unigram loss")]
    return Grid("Held-out loss by source", tuple(charts), Table((*map(Column, titles), *losses), tuple(rows)))


def mean_held_out_loss(
    runs: Sequence[RunRecord],
    sources: Sequence[str],
    colours: Sequence[int],
    unigram: float | None,
    keys: Sequence[str] | None = None,
) -> Chart:
    """Return the mean held-out loss over the sources, a curve for each run.

    Args:
        runs: Whose losses can be compared.
        sources: That all of them have.
        colours: Of the runs.
        unigram: The mean of the unigram baseline, if it is known.
        keys: What the legend calls the runs; None: their names.
    """
    curves = [
        Series.of(run.name, *series.mean_held_out(run.metrics.evaluations, sources), colour, "points", key)
        for run, colour, key in zip(runs, colours, keys or [run.name for run in runs], strict=True)
    ]
    if unigram is not None:
        curves.append(_reference(_UNIGRAM, unigram, 0.0, float(max(run.tokens for run in runs))))
    of = sources[0] if len(sources) == 1 else f"mean of {len(sources)} sources"
    description = f"Held-out loss of {len(runs)} runs over trained tokens."
    return Chart("Held-out loss", f"nats per target, {of}", _known(curves), description)


def training_loss(runs: Sequence[RunRecord]) -> Chart:
    """Return the smoothed training loss, a curve for each run."""
    curves = []
    for number, run in enumerate(runs):
        loss = column(run.metrics.training, "loss")
        curves.append(Series.of(run.name, *series.smooth_by_phase(run.metrics.training, loss), number))
    unit = "nats per target, smoothed; depends on tokenizer, objective and mask rate, and jumps with them"
    description = f"Training loss of {len(runs)} runs over trained tokens."
    is_long = all(len(run.metrics.training) >= _MANY_STEPS for run in runs)
    limits = _without_start(curves) if is_long else None
    return Chart("Training loss", unit, _known(curves), description, y_range=limits)


def training_charts(runs: Sequence[RunRecord]) -> Iterator[Chart]:
    """Yield how runs were trained: learning rate and batch as planned, and the metrics of each logged step."""
    schedules = [run.schedule for run in runs if run.schedule is not None]
    end = float(max(run.tokens for run in runs))
    total = float(max([end, *(schedule.total_tokens for schedule in schedules)]))
    rates = [None if run.schedule is None else series.planned_rate(run.schedule) for run in runs]
    batches = [None if run.schedule is None else series.planned_batch(run.schedule) for run in runs]
    if schedules:
        remark = f"{end / total:.0%} trained" if len(runs) == 1 and end < total else ""
        yield _training_chart(
            runs, "Learning rate", "as planned", _planned(runs, rates), ".3g", total, remark
        )
    if len({size for plan in batches if plan is not None for size in plan[1].tolist()}) > 1:
        yield _training_chart(
            runs, "Batch size", "tokens, as planned", _planned(runs, batches), "tokens", total, is_plan=True
        )
    for name, (title, unit, form) in _METRICS.items():
        curves = []
        for number, run in enumerate(runs):
            values = column(run.metrics.training, name)
            tokens = column(run.metrics.training, "tokens")
            smoothed = series.smooth_by_phase(run.metrics.training, values)
            curves.append(Series.of(f"{run.name}, as logged", tokens, values, number, "raw", run.name))
            curves.append(Series.of(run.name, *smoothed, number, "line", run.name))
        if _known(curves):
            chart = _training_chart(runs, title, unit, curves, form, end, is_log=name == "grad_norm")
            middle = runs[0].median(name) if len(runs) == 1 else None
            yield chart if middle is None else chart.with_remark(f"median {chart.text(middle)}")


def _planned(runs: Sequence[RunRecord], plans: Sequence[tuple[Float64, Float64] | None]) -> list[Series]:
    """Return planned curves: what has been trained as a line, the rest of the plan dashed."""
    curves = []
    for number, (run, plan) in enumerate(zip(runs, plans, strict=True)):
        if plan is None:
            continue
        x, y = plan
        is_done = x <= run.tokens
        if run.is_finished or is_done.all():
            curves.append(Series.of(run.name, x, y, number))
            continue
        now = float(np.interp(run.tokens, x, y))
        curves.append(Series.of(run.name, [*x[is_done], run.tokens], [*y[is_done], now], number))
        rest = [run.tokens, *x[~is_done]], [now, *y[~is_done]]
        curves.append(Series.of(f"{run.name}, to come", *rest, number, "reference", run.name))
    return curves


def _training_chart(
    runs: Sequence[RunRecord],
    title: str,
    unit: str,
    curves: Sequence[Series],
    form: str,
    x_end: float,
    remark: str = "",
    is_log: bool = False,
    is_plan: bool = False,
) -> Chart:
    """Return a chart from 0 on, or with a logarithmic axis; a single run has its phases in it."""
    top = float(np.nanmax(np.concatenate([curve.y for curve in curves])))
    return Chart(
        title,
        unit,
        _known(curves),
        f"{title}, {unit}, over trained tokens.",
        form,
        () if len(runs) > 1 else runs[0].planned_bands() if is_plan else runs[0].bands(),
        x_end,
        None if is_log else (0.0, 1.08 * top or 1.0),
        is_log,
        remark,
        "half",
    )
