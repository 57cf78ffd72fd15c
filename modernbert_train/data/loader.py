"""The loader: planned rows, step by step, from worker processes, resumable at any step.

A rank reads C/world_size streams, or one more (sharing.py), and divides them among its workers in order; each worker
yields its rows step by step.
A batch is the rows of all streams in the order of the streams, so it is the same for every number of workers and, over
all ranks, for every number of ranks. Each item carries the positions after it. A checkpoint therefore gets the
positions of the batch that the trainer has taken, however far the workers have read ahead.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypedDict

import numpy as np
import torch
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, _utils, get_worker_info

from modernbert_train.common.processes import end_with_parent
from modernbert_train.common.waiting import waiting
from modernbert_train.data.batch import PackedBatch, collate
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.plan import PhaseRows, StreamPositions, fingerprint_at
from modernbert_train.data.reader import SequenceReader
from modernbert_train.data.sharing import most_streams, streams_of_rank


class _Item(TypedDict):
    """The rows of a worker's streams in one step."""

    batch: PackedBatch
    # Of the worker's streams, after the step.
    positions: StreamPositions
    # Source -> its content tokens in the batch.
    source_tokens: dict[str, int]


class PlannedRows(IterableDataset[_Item]):
    """The rows of this rank from `step` on, saved and restored by Composer through `state_dict`."""

    def __init__(
        self,
        phases: Sequence[PhaseRows],
        inputs: Inputs,
        *,
        rank: int,
        world_size: int,
        skipped_steps: Sequence[range] = (),
    ) -> None:
        (num_streams,) = {phase.plan.num_streams for phase in phases}
        self._streams = streams_of_rank(num_streams, rank, world_size)
        self._most_streams = most_streams(num_streams, world_size)
        self._phases = list(phases)
        self._inputs = inputs
        self.total_steps = sum(phase.num_steps for phase in phases)
        self._rank = rank
        self._skipped_steps = tuple(skipped_steps)
        self.step = 0
        self.positions: StreamPositions = {}
        # Source -> content tokens that the trainer has taken so far; the sum over the ranks is that of the run.
        self.source_tokens: Counter[str] = Counter()

    @property
    def num_streams(self) -> int:
        """Number of streams that this rank reads."""
        return len(self._streams)

    def most_rows(self, rows: int) -> int:
        """Return the rows of the ranks with the most streams in a step of which this rank has `rows`."""
        return rows // len(self._streams) * self._most_streams

    def is_skipped(self, step: int) -> bool:
        """Check whether a step has no batch; its rows are passed over."""
        return any(step in part for part in self._skipped_steps)

    def __iter__(self) -> Iterator[_Item | Exception]:
        """Yield the items of this worker; an error is yielded too, because DataLoader would only pass its text on."""
        worker = get_worker_info()
        if worker is None:
            yield from self._items(0, 1)
            return
        try:
            for item in self._items(worker.id, worker.num_workers):
                yield {**item, "batch": _to_arrays(item["batch"])}
        except (ValueError, OSError) as error:
            yield error

    def _items(self, number: int, count: int) -> Iterator[_Item]:
        streams = np.array_split(np.asarray(self._streams), count)[number].tolist()
        # Copied here: without workers the trainer advances them between two items.
        step, positions = self.step, self.positions
        first_step = 0
        for phase in self._phases:
            last_step = first_step + phase.num_steps
            if step < last_step:
                start = max(step, first_step)
                resumed = start > first_step
                yield from self._phase(
                    phase, streams, first_step, start - first_step, positions if resumed else {}
                )
            first_step = last_step

    def _phase(
        self, phase: PhaseRows, streams: list[int], first_step: int, start: int, positions: StreamPositions
    ) -> Iterator[_Item]:
        per_sequence = phase.plan.streams_per_sequence
        readers = [
            SequenceReader(phase, self._inputs, together, positions.get(together[0], (0, 0)))
            for together in (
                list(part) for _, part in groupby(streams, lambda stream: stream // per_sequence)
            )
        ]
        # Rows per stream of the skipped steps since the last batch.
        passed_over = 0
        for step in range(start, phase.num_steps):
            rows_per_stream = phase.batch_rows(step) // phase.plan.num_streams
            if self.is_skipped(first_step + step):
                passed_over += rows_per_stream
                continue
            if passed_over:
                for reader in readers:
                    reader.pass_over(passed_over)
                passed_over = 0
            rows = [row for reader in readers for row in reader.next_rows(rows_per_stream)]
            tokens = np.sum([reader.take_source_tokens() for reader in readers], axis=0)
            yield _Item(
                batch=collate(rows, phase.plan.context_tokens),
                positions={stream: reader.position for reader in readers for stream in reader.streams},
                source_tokens=dict(zip(phase.plan.sources, tokens.tolist(), strict=True)),
            )

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Return the positions of all ranks. Composer calls this on every rank; both arguments are Composer's own."""
        per_rank: list[Any] = [(self.positions, self.source_tokens)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            per_rank = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(per_rank, (self.positions, self.source_tokens))
        return {
            "step": self.step,
            "positions": {stream: at for positions, _ in per_rank for stream, at in positions.items()},
            "source_tokens": dict(sum((tokens for _, tokens in per_rank), Counter())),
            "fingerprint": self._fingerprint(self.step),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: The recipe now reads other rows in the phase of this state than when it was saved.
        """
        if state["fingerprint"] != self._fingerprint(state["step"]):
            raise ValueError(
                "data: the checkpoint was made with other data, mixture, num_streams, context, objective, mask rate or "
                "seed than the recipe has for this phase; restore them, or start a new run from its weights with "
                "init.from"
            )
        self.step = state["step"]
        self.positions = dict(state["positions"])
        self.source_tokens = Counter(state["source_tokens"] if self._rank == 0 else {})

    def _fingerprint(self, step: int) -> str:
        return fingerprint_at(self._phases, step, self._inputs.masking)


class PlannedLoader(DataLoader):
    """The batches of this rank. Composer saves the position of a DataLoader only, so this is one."""

    dataset: PlannedRows

    def __init__(self, dataset: PlannedRows, *, num_workers: int, stall_seconds: float = math.inf) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_unchanged,
            worker_init_fn=_end_with_trainer,
        )
        # How long a batch may take (data.stall_seconds).
        self._stall_seconds = stall_seconds
        self._items: Any = None
        # Time that the trainer has spent waiting for batches.
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[PackedBatch]:
        self._items = super().__iter__()
        try:
            for step in range(self.dataset.step, self.dataset.total_steps):
                if self.dataset.is_skipped(step):
                    continue
                started = time.perf_counter()
                parts = [self._next_item(worker) for worker in range(max(1, self.num_workers))]
                self.dataset.step = step + 1
                self.dataset.positions = {
                    stream: at for part in parts for stream, at in part["positions"].items()
                }
                for part in parts:
                    self.dataset.source_tokens.update(part["source_tokens"])
                batch = (
                    _from_arrays([part["batch"] for part in parts]) if self.num_workers else parts[0]["batch"]
                )
                self.wait_seconds += time.perf_counter() - started
                yield batch
        finally:
            self.close()

    def close(self) -> None:
        """End the workers. Closing twice does no harm.

        Not left to garbage collection: the traceback of an error keeps the iterator alive until the trainer exits, and
        the exit waits for the workers, which ignore signals and may be stopped, or waiting for storage.
        """
        items, self._items = self._items, None
        if not self.num_workers or items is None or items._shutdown:
            return
        if items._worker_pids_set:  # otherwise torch takes their end for a failure
            _utils.signal_handling._remove_worker_pids(id(items))
            items._worker_pids_set = False
        for worker in items._workers:
            worker.kill()
        items._shutdown_workers()

    def _next_item(self, worker: int) -> _Item:
        """Return the next item of a worker; torch asks the workers in turn."""

        def describe() -> str:
            if not self.num_workers:
                return "data, which it reads itself"
            return f"data from its worker {worker} (process {self._items._workers[worker].pid})"

        with waiting(describe, self._stall_seconds, "data.stall_seconds"):
            item = next(self._items)
        if isinstance(item, Exception):
            raise item
        return item


def _unchanged(item: _Item | Exception) -> _Item | Exception:
    """Return an item as it is: the default collation would turn the arrays of a worker back into tensors."""
    return item


def _to_arrays(batch: PackedBatch) -> PackedBatch:
    """Convert the tensors of a batch to arrays, which go from a worker to the trainer through a pipe.

    Tensors would go through shared memory one by one, and for the handle of each the trainer would wait until the busy
    worker answers: 70 ms per step with four workers.

    Returns:
        A `PackedBatch` with arrays in place of tensors.
    """
    arrays = {name: value.numpy() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return PackedBatch(**arrays, max_seqlen=batch["max_seqlen"])  # type: ignore[typeddict-item]


def _from_arrays(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Join the batches of several workers. numpy concatenates, because torch would start threads for it."""
    tensors = {
        name: torch.from_numpy(np.concatenate([batch[name] for batch in batches]))  # type: ignore[literal-required]
        for name in PackedBatch.__annotations__
        if name != "max_seqlen"
    }
    return PackedBatch(**tensors, max_seqlen=batches[0]["max_seqlen"])  # type: ignore[typeddict-item]


def _end_with_trainer(worker_id: int) -> None:
    """End a worker when the trainer is killed, instead of leaving it behind."""
    end_with_parent(signal.SIGKILL)
