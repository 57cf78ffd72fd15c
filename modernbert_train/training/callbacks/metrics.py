"""The record of a run: a line of metrics.jsonl for each logged step, the same for the loggers, and a progress bar."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from composer import Callback, Logger, State
from tqdm.auto import tqdm

from modernbert_train.checkpoints.run_files import METRICS_FILE, drop_after
from modernbert_train.common.errors import naming
from modernbert_train.objectives import phase_title
from modernbert_train.training.callbacks.base import Metric, step_of
from modernbert_train.training.callbacks.evaluation import Evaluate
from modernbert_train.training.distributed.ranks import is_rank_zero
from modernbert_train.training.run import Run

# Columns of the progress bar without the figures behind the speed, at most.
_BAR_COLUMNS = 60


class MetricsLogger(Callback):
    """Collects the records of all `Metric` callbacks, writes them and shows the progress. Comes after them all.

    The loss of a line is the mean over the steps since the line before, as are the figures of `Throughput`. Steps
    without a target have no loss. A checkpoint between two lines carries the sums, so that a restart changes nothing.
    """

    def __init__(self, run: Run, evaluate: Evaluate) -> None:
        self._run = run
        self._schedule = run.schedule
        self._evaluate = evaluate
        self._path = run.folder / METRICS_FILE
        self._loss_sum, self._num_losses = 0.0, 0  # of the steps since the last line
        self._bar: tqdm | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"loss_sum": self._loss_sum, "num_losses": self._num_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Older checkpoints lack them.
        self._loss_sum, self._num_losses = state.get("loss_sum", 0.0), state.get("num_losses", 0)

    def fit_start(self, state: State, logger: Logger) -> None:
        if is_rank_zero():
            drop_after(self._path, step_of(state))
        if self._run.recipe.training.progress_bar and is_rank_zero() and sys.stderr.isatty():
            done, total = self._schedule.tokens_before(step_of(state)), self._schedule.total_tokens
            self._bar = tqdm(total=total, initial=done, unit=" tok", unit_scale=True, dynamic_ncols=True)

    def batch_end(self, state: State, logger: Logger) -> None:
        assert state.total_loss_dict is not None
        if loss_of_step := state.total_loss_dict["loss/train/total"]:  # exactly 0 without a target
            self._loss_sum, self._num_losses = self._loss_sum + loss_of_step, self._num_losses + 1
        step = step_of(state)
        if not self._run.is_logged(step):
            return
        place, loss = self._place(step), self._loss_sum / self._num_losses if self._num_losses else None
        self._loss_sum, self._num_losses = 0.0, 0
        record, scalars = {**place, "loss": loss}, {"tokens": place["tokens"], "loss": loss}
        for metric in state.callbacks:
            if isinstance(metric, Metric):
                values = metric.record(state)
                record |= values
                scalars |= {key: value for key, value in values.items() if key not in metric.not_scalars}
        self._write(record)
        logger.log_metrics(_named(scalars))
        self._show(record)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Write the results of an evaluation after this step, which `Evaluate` has made before."""
        step = step_of(state)
        if self._evaluate.step != step:
            return
        place, results = self._place(step), self._evaluate.results
        self._write({**place, "eval": results})
        figures = ", ".join(
            f"{source} {result['loss']:.3f} ({result['accuracy']:.1%})"
            if result
            else f"{source} nothing to predict"
            for source, result in results.items()
        )
        self._print(
            f"held out after {place['tokens']:,} tokens ({_phase_title(place)}): loss (accuracy) {figures}"
        )

    def fit_end(self, state: State, logger: Logger) -> None:
        if self._bar is not None:
            self._bar.close()

    def _place(self, step: int) -> dict[str, Any]:
        """Return where in the run the end of step number `step` is."""
        phase = self._schedule.phase_of(step - 1)
        return {
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "step": step,
            "tokens": self._schedule.tokens_before(step),
            "phase": phase.name,
            "objective": phase.objective.name,
        }

    def _write(self, record: dict[str, Any]) -> None:
        if is_rank_zero():
            with naming(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _show(self, record: dict[str, Any]) -> None:
        title = _phase_title(record)
        figures = [
            "loss -" if record["loss"] is None else f"loss {record['loss']:.3f}",
            f"lr {record['lr']:.1e}",
            f"context {record['context_tokens']:,}",
        ]
        waiting = f"waiting for data {record['data_wait_share']:.0%}"
        if self._bar is not None:
            self._bar.update(record["tokens"] - self._bar.n)
            self._bar.set_description(title, refresh=False)
            columns = (self._bar.format_dict["ncols"] or 80) - _BAR_COLUMNS - len(title)
            self._bar.set_postfix_str(_as_many_as_fit([*figures, waiting], columns))
        else:
            self._print(
                f"{title}: step {record['step']:,}/{self._schedule.total_steps:,}, "
                f"{record['tokens'] / self._schedule.total_tokens:.0%} of the tokens, {', '.join(figures)}, "
                f"{record['tokens_per_s']:,.0f} tokens/s, {self._remaining_time(record)} left, {waiting}"
            )

    def _remaining_time(self, record: dict[str, Any]) -> str:
        slots_per_s = record["tokens_per_s"] / record["fill"] if record["fill"] else 0.0
        if not slots_per_s:  # all documents of these steps were skipped
            return "unknown time"
        seconds = int((self._schedule.total_tokens - record["tokens"]) / slots_per_s)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _print(self, line: str) -> None:
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {line}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif is_rank_zero():
            print(line, file=sys.stderr, flush=True)


def _named(scalars: dict[str, Any]) -> dict[str, float]:
    """Return the scalars under the names that loggers know them by, without those that are None."""
    named: dict[str, float] = {}
    for key, value in scalars.items():
        if isinstance(value, dict):
            named |= {f"{key}/{name}": number for name, number in value.items()}
        elif value is not None:
            named[f"train/{key}"] = value
    return named


def _as_many_as_fit(figures: list[str], columns: int) -> str:
    """Join the figures, without the last ones for which a terminal is too narrow."""
    while figures and len(", ".join(figures)) > columns:
        figures = figures[:-1]
    return ", ".join(figures)


def _phase_title(place: dict[str, Any]) -> str:
    return phase_title(place["phase"], place["objective"])
