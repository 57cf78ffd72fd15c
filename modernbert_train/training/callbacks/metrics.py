"""What a run tells of itself: a line of `metrics.jsonl` a logged step, the same to the loggers, and a progress bar."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.utils import dist
from tqdm.auto import tqdm

from modernbert_train.checkpoints.run_files import METRICS_FILE, drop_after
from modernbert_train.config import ModelConfig
from modernbert_train.data.batch import checksum
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.objectives import phase_title
from modernbert_train.planning.cost import training_flops_per_token
from modernbert_train.schedule import RunSchedule
from modernbert_train.training.callbacks.evaluation import Evaluate
from modernbert_train.training.callbacks.gradients import GradientNorm
from modernbert_train.training.callbacks.schedule import step_of


class Metrics(Callback):
    """Measures and writes. Times leave out evaluation and checkpoints; the share of waiting is that of rank 0."""

    def __init__(
        self,
        plan: RunSchedule,
        run: Path,
        loader: PlannedLoader,
        gradient: GradientNorm,
        evaluate: Evaluate,
        *,
        log_every_steps: int,
        progress_bar: bool,
        peak_flops: float | None,
        model: ModelConfig,
        sources: Sequence[str],
    ) -> None:
        self._plan = plan
        self._path = run / METRICS_FILE
        self._loader = loader
        self._gradient = gradient
        self._evaluate = evaluate
        self._log_every_steps = log_every_steps
        self._show = progress_bar and dist.get_global_rank() == 0
        self._peak_flops = peak_flops
        self._model = model
        self._sources = sources  # whose tokens are counted
        self._flops_per_token = 0.0  # of the batch of the step that is logged
        self._bar: tqdm | None = None
        self._waited = 0.0  # the loader's wait_seconds at the end of the last step
        self._started = 0.0
        self._crc = torch.zeros(1, dtype=torch.int64)
        self._consumed = 0  # tokens, padding not counted, up to the last step
        self._reset()

    def _reset(self) -> None:
        self._seconds = self._wait = 0.0
        self._slots = self._tokens = 0

    def fit_start(self, state: State, logger: Logger) -> None:
        self._consumed = int(state.timestamp.token)
        if dist.get_global_rank() == 0:
            drop_after(self._path, step_of(state))
        if self._show and sys.stderr.isatty():
            done = self._plan.tokens_before(step_of(state))
            self._bar = tqdm(total=self._plan.total_tokens, initial=done, unit=" tok", unit_scale=True)

    def after_dataloader(self, state: State, logger: Logger) -> None:
        waited = self._loader.wait_seconds - self._waited
        self._waited = self._loader.wait_seconds
        self._wait += waited
        self._started = time.perf_counter() - waited
        if self._logs(step_of(state) + 1):
            self._crc = torch.tensor([checksum(state.batch)])
            lengths = state.batch["segment_tokens"].numpy()
            objective = self._plan.phase_of(step_of(state)).objective
            self._flops_per_token = training_flops_per_token(self._model, lengths, objective)

    def batch_end(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        self._seconds += time.perf_counter() - self._started
        self._slots += self._plan.batch_tokens(step - 1)
        self._tokens += int(state.timestamp.token) - self._consumed
        self._consumed = int(state.timestamp.token)
        if not self._logs(step):
            return
        record = self._record(state, step)
        self._write(record)
        names = set(record) - {"step", "phase", "objective", "batch_crc32", "source_tokens"}
        logger.log_metrics({f"train/{name}": record[name] for name in names if record[name] is not None})
        logger.log_metrics({f"source_tokens/{name}": n for name, n in record["source_tokens"].items()})
        self._display(record)
        self._reset()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """After the evaluators: their results, if any were made for this step."""
        step = step_of(state)
        if self._evaluate.step == step:
            phase = self._plan.phase_of(step - 1)
            record: dict[str, Any] = {"step": step, "tokens": self._plan.tokens_before(step)}
            record |= {"phase": phase.name, "objective": phase.objective.name}
            self._write({**record, "eval": self._evaluate.results})
            figures = ", ".join(
                f"{source} {result['loss']:.3f} ({result['accuracy']:.1%})"
                for source, result in self._evaluate.results.items()
            )
            self._say(
                f"held out after {record['tokens']:,} tokens ({_phase_of(record)}): loss (accuracy) {figures}"
            )

    def fit_end(self, state: State, logger: Logger) -> None:
        if self._bar is not None:
            self._bar.close()

    def _logs(self, step: int) -> bool:
        return self._plan.is_logged(step, self._log_every_steps)

    def _record(self, state: State, step: int) -> dict[str, Any]:
        phase = self._plan.phase_of(step - 1)
        assert state.total_loss_dict is not None
        world_size = dist.get_world_size()
        of_rank = self._loader.dataset.source_tokens
        sums = torch.tensor([int(self._crc), *(of_rank[source] for source in self._sources)])
        sums = state.device.tensor_to_device(sums)
        dist.all_reduce(sums)
        crc, *source_tokens = sums.tolist()
        record = {
            "step": step,
            "tokens": self._plan.tokens_before(step),
            "phase": phase.name,
            "loss": state.total_loss_dict["loss/train/total"],
            "lr": self._plan.learning_rate(step - 1),
            "grad_norm": float(self._gradient.norm) if self._gradient.norm is not None else None,
            "batch_tokens": self._plan.batch_tokens(step - 1),
            "context_tokens": phase.config.context_tokens,
            "global_rope_theta": phase.config.global_rope_theta,
            **phase.objective.record(),
            "fill": self._tokens / self._slots,
            "tokens_per_s": self._tokens / self._seconds,
            "tokens_per_s_per_device": self._tokens / self._seconds / world_size,
            "data_wait_share": self._wait / self._seconds,
            "batch_crc32": crc % 2**32,
            "source_tokens": dict(zip(self._sources, source_tokens, strict=True)),
        }
        record["peak_memory_gib"] = _peak_memory_bytes() / 2**30
        if self._peak_flops is not None:
            record["mfu"] = record["tokens_per_s_per_device"] * self._flops_per_token / self._peak_flops
        return record

    def _write(self, record: dict[str, Any]) -> None:
        if dist.get_global_rank() == 0:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _display(self, record: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.update(record["tokens"] - self._bar.n)
            self._bar.set_description(_phase_of(record), refresh=False)
            self._bar.set_postfix_str(
                f"loss {record['loss']:.3f}, lr {record['lr']:.1e}, context {record['context_tokens']:,}, "
                f"waiting for data {record['data_wait_share']:.0%}"
            )
        elif self._show:
            self._say(
                f"{_phase_of(record)}: step {record['step']:,}/{self._plan.total_steps:,}, "
                f"{record['tokens'] / self._plan.total_tokens:.0%} of the tokens, loss {record['loss']:.3f}, "
                f"lr {record['lr']:.1e}, context {record['context_tokens']:,}, {record['tokens_per_s']:,.0f} tokens/s, "
                f"{self._remaining(record)} left, waiting for data {record['data_wait_share']:.0%}"
            )

    def _remaining(self, record: dict[str, Any]) -> str:
        seconds = int((self._plan.total_tokens - record["tokens"]) / (self._slots / self._seconds))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self._show:
            print(line, file=sys.stderr, flush=True)


def _phase_of(record: dict[str, Any]) -> str:
    return phase_title(record["phase"], record["objective"])


def _peak_memory_bytes() -> int:
    """Most memory this rank has held at once: of its GPU, or without one of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # which Linux counts in KiB
