"""The loader: planned rows, step by step, through worker processes, resumable at any step.

A rank owns C/world canonical streams, its workers share them out in order, and each worker yields its rows of step
after step. A batch is the rows of all streams in the order of the streams: the same for every number of workers, and,
over the ranks, for every number of ranks. Every item carries the position behind it, so the position that goes into
a checkpoint is that of the batch the trainer has taken, however far the workers have read ahead.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from modernbert_train.common.processes import end_with_parent
from modernbert_train.data.batch import PackedBatch, collate
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.plan import PhaseRows, StreamPositions, fingerprint_at
from modernbert_train.data.reader import StreamReader


def streams_of_rank(streams: int, rank: int, world_size: int) -> list[int]:
    """The canonical streams that a rank reads."""
    return np.array_split(np.arange(streams), world_size)[rank].tolist()


class _Item(TypedDict):
    """What a worker hands over for one step."""

    batch: PackedBatch
    positions: StreamPositions
    source_tokens: dict[str, int]  # source -> content tokens of it in the batch


class PlannedRows(IterableDataset[_Item]):
    """The rows of this rank, from `step` on. Keeps Composer's `state_dict` treaty (see `state_dict`)."""

    def __init__(
        self,
        phases: Sequence[PhaseRows],
        inputs: Inputs,
        *,
        rank: int,
        world_size: int,
        skipped_steps: Sequence[range] = (),
    ) -> None:
        streams = {phase.plan.num_streams for phase in phases}
        assert len(streams) == 1
        self._streams = streams_of_rank(streams.pop(), rank, world_size)
        self._phases = list(phases)
        self._inputs = inputs
        self.total_steps = sum(phase.num_steps for phase in phases)
        self._rank = rank
        self._skipped_steps = tuple(skipped_steps)
        self.step = 0
        self.positions: StreamPositions = {}
        # Content tokens that the trainer has taken so far, by source; over the ranks they add up to those of the run.
        self.source_tokens: Counter[str] = Counter()

    def is_skipped(self, step: int) -> bool:
        """Whether there is no batch for a step; the streams move on all the same."""
        return any(step in part for part in self._skipped_steps)

    def __iter__(self) -> Iterator[_Item | ValueError]:
        """What a worker cannot read, it hands over: DataLoader would wrap it into the text of a traceback."""
        worker = get_worker_info()
        if worker is None:
            yield from self._items(0, 1)
            return
        try:
            for item in self._items(worker.id, worker.num_workers):
                yield {**item, "batch": _to_arrays(item["batch"])}
        except ValueError as error:
            yield error

    def _items(self, number: int, count: int) -> Iterator[_Item]:
        streams = np.array_split(np.asarray(self._streams), count)[number].tolist()
        step, positions = self.step, self.positions  # of the start: the trainer moves them on meanwhile
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
        readers = [
            StreamReader(phase, self._inputs, stream, positions.get(stream, (0, 0))) for stream in streams
        ]
        passed_over = 0  # rows of each stream, in the skipped steps since the last batch
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
                positions={reader.stream: reader.position for reader in readers},
                source_tokens=dict(zip(phase.plan.sources, tokens.tolist(), strict=True)),
            )

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """The position of the whole run. Composer calls this on all ranks; its own count of samples is not needed."""
        of_ranks: list[Any] = [(self.positions, self.source_tokens)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            of_ranks = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(of_ranks, (self.positions, self.source_tokens))
        return {
            "step": self.step,
            "positions": {stream: at for positions, _ in of_ranks for stream, at in positions.items()},
            "source_tokens": dict(sum((tokens for _, tokens in of_ranks), Counter())),
            "fingerprint": self._fingerprint(self.step),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Seek. ValueError if the phase at this position would now read other rows than when it was saved."""
        if state["fingerprint"] != self._fingerprint(state["step"]):
            raise ValueError(
                "data: the checkpoint was made with other data, mixture, streams, context, objective, mask rate or "
                "seed than the recipe now names for this phase; restore them, or start a new run from its weights with "
                "init.from"
            )
        self.step = state["step"]
        self.positions = dict(state["positions"])
        self.source_tokens = Counter(state["source_tokens"] if self._rank == 0 else {})

    def _fingerprint(self, step: int) -> str:
        return fingerprint_at(self._phases, step, self._inputs.masking)


class PlannedLoader(DataLoader):
    """Batches of this rank. A DataLoader, because Composer saves the position of nothing else."""

    dataset: PlannedRows

    def __init__(self, dataset: PlannedRows, *, num_workers: int) -> None:
        super().__init__(dataset, batch_size=None, num_workers=num_workers, worker_init_fn=_end_with_trainer)
        self.wait_seconds = 0.0  # time the trainer has spent waiting for batches

    def __iter__(self) -> Iterator[PackedBatch]:
        items = super().__iter__()
        try:
            for step in range(self.dataset.step, self.dataset.total_steps):
                if self.dataset.is_skipped(step):
                    continue
                started = time.perf_counter()
                parts: list[_Item] = [_readable(next(items)) for _ in range(max(1, self.num_workers))]
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
            # Now, and not when the iterator is collected: the traceback of an error keeps it until the trainer exits,
            # and that waits for workers which leave signals alone.
            if self.num_workers:
                items._shutdown_workers()


def _readable(item: _Item | ValueError) -> _Item:
    if isinstance(item, ValueError):
        raise item
    return item


def _to_arrays(batch: PackedBatch) -> PackedBatch:
    """A batch as workers hand it over: arrays go through a pipe.

    Tensors would go one by one through shared memory, and for the handle of each the trainer would wait until the busy
    worker answers: 70 ms a step of four workers.
    """
    arrays = {name: value.numpy() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return PackedBatch(**arrays, max_seqlen=batch["max_seqlen"])  # type: ignore[typeddict-item]


def _from_arrays(batches: Sequence[PackedBatch]) -> PackedBatch:
    """One batch of the rows of several, in their order. numpy joins them: torch would start threads for it."""
    tensors = {
        name: torch.from_numpy(np.concatenate([batch[name] for batch in batches]))  # type: ignore[literal-required]
        for name in PackedBatch.__annotations__
        if name != "max_seqlen"
    }
    return PackedBatch(**tensors, max_seqlen=batches[0]["max_seqlen"])  # type: ignore[typeddict-item]


def _end_with_trainer(worker_id: int) -> None:
    """End a worker when the trainer is killed, instead of leaving it behind."""
    end_with_parent(signal.SIGKILL)
