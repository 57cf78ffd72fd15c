"""Speed and memory of training."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from composer import Logger, State
from composer.utils import dist

from modernbert_train.data.loader import PlannedLoader
from modernbert_train.planning.cost import peak_flops, training_flops_per_token
from modernbert_train.training.callbacks.base import Metric, step_of
from modernbert_train.training.run import Run


class Throughput(Metric):
    """Tokens per second, model FLOPs utilization and the share of time spent waiting for data, since the last record.

    Evaluation and checkpoints are not part of the time. The waiting is that of this rank, so rank 0's is written.
    """

    def __init__(self, run: Run, loader: PlannedLoader) -> None:
        self._run = run
        self._loader = loader
        self._peak_flops = peak_flops()
        self._flops_per_token = 0.0  # in the batch of the step to be recorded
        self._waited_seconds = 0.0  # the loader's wait_seconds at the end of the last step
        self._step_started = 0.0
        self._tokens_before = 0  # tokens of the run up to the last step, without padding
        self._reset()

    def _reset(self) -> None:
        self._seconds = self._wait_seconds = 0.0
        self._slots = self._tokens = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self._seconds,
            "wait_seconds": self._wait_seconds,
            "slots": self._slots,
            "tokens": self._tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:  # empty in older checkpoints
            self._seconds, self._wait_seconds = state["seconds"], state["wait_seconds"]
            self._slots, self._tokens = state["slots"], state["tokens"]

    def fit_start(self, state: State, logger: Logger) -> None:
        self._tokens_before = int(state.timestamp.token)

    def after_dataloader(self, state: State, logger: Logger) -> None:
        waited = self._loader.wait_seconds - self._waited_seconds
        self._waited_seconds = self._loader.wait_seconds
        self._wait_seconds += waited
        self._step_started = time.perf_counter() - waited
        step = step_of(state)
        if self._run.is_logged(step + 1):
            lengths = state.batch["segment_tokens"].numpy()
            objective = self._run.schedule.phase_of(step).objective
            self._flops_per_token = training_flops_per_token(self._run.recipe.model, lengths, objective)

    def batch_end(self, state: State, logger: Logger) -> None:
        self._seconds += time.perf_counter() - self._step_started
        self._slots += self._run.schedule.batch_tokens(step_of(state) - 1)
        self._tokens += int(state.timestamp.token) - self._tokens_before
        self._tokens_before = int(state.timestamp.token)

    def record(self, state: State) -> dict[str, Any]:
        per_device = self._tokens / self._seconds / dist.get_world_size()
        record = {
            "fill": self._tokens / self._slots,
            "tokens_per_s": self._tokens / self._seconds,
            "tokens_per_s_per_device": per_device,
            "data_wait_share": self._wait_seconds / self._seconds,
        }
        if self._peak_flops is not None:
            record["mfu"] = per_device * self._flops_per_token / self._peak_flops
        self._reset()
        return record


class PeakMemory(Metric):
    """The most memory that this rank has held at once: of its GPU, or of the process on a CPU."""

    def record(self, state: State) -> dict[str, Any]:
        if torch.cuda.is_available():
            peak_bytes = torch.cuda.max_memory_allocated()
        else:
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        return {"peak_memory_gib": peak_bytes / 2**30}
