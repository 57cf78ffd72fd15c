"""A warm-up of DistributedDataParallel, so that a restarted run sums gradients in the same order as before."""

from __future__ import annotations

import torch
from composer import Callback, Logger, State
from torch.nn.parallel import DistributedDataParallel

from modernbert_train.data.batch import micro_batches


class WarmUpDDP(Callback):
    """Runs one forward and backward pass before the first step, and discards its gradients.

    DistributedDataParallel sums gradients in buckets, and rebuilds the buckets after the first backward pass in the
    order in which gradients became ready. The place of a gradient in its bucket decides in which order the shares of
    the ranks are added. With more than two ranks, the first step after a restart would therefore differ by rounding
    from the same step of an uninterrupted run.

    Comes after `Schedule`, which sets the rows of a micro-batch: torch.compile must see the shapes of the step itself.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id
        self._done = False

    def batch_start(self, state: State, logger: Logger) -> None:
        if self._done or not isinstance(state.model, DistributedDataParallel):
            return
        self._done = True
        assert state.device_train_microbatch_size is not None
        first, *_ = micro_batches(state.batch, int(state.device_train_microbatch_size), self._pad_id)
        devices = {parameter.device for parameter in state.model.parameters() if parameter.is_cuda}
        with torch.random.fork_rng(devices):
            state.model(state.device.batch_to_device(first)).backward()
        for parameter in state.model.parameters():
            parameter.grad = None
