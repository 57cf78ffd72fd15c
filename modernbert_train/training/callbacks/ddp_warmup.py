"""Gradients of several ranks are summed in the same order after a restart as before it."""

from __future__ import annotations

import torch
from composer import Callback, Logger, State
from torch.nn.parallel import DistributedDataParallel

from modernbert_train.data.batch import micro_batches


class SettleBuckets(Callback):
    """Before its first step, one forward and backward pass whose gradients are thrown away.

    DistributedDataParallel sums gradients in buckets, and lays these out anew once a backward pass has shown in which
    order gradients are ready. Where a gradient lies decides in which order the ranks' shares of it are added, so that
    with more than two ranks the first step of a process would differ, by rounding, from the same step of a run that was
    never stopped.

    After `Schedule`, which sets the rows of a micro-batch: torch.compile must see the shapes of the step itself.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id
        self._settled = False

    def batch_start(self, state: State, logger: Logger) -> None:
        if self._settled or not isinstance(state.model, DistributedDataParallel):
            return
        self._settled = True
        assert state.device_train_microbatch_size is not None
        first, *_ = micro_batches(state.batch, int(state.device_train_microbatch_size), self._pad_id)
        devices = {parameter.device for parameter in state.model.parameters() if parameter.is_cuda}
        with torch.random.fork_rng(devices):
            state.model(state.device.batch_to_device(first)).backward()
        for parameter in state.model.parameters():
            parameter.grad = None
