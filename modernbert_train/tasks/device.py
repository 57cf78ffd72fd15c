"""The device that a job on a task computes on."""

import torch

from modernbert_train.tasks.schema import Task


def device_of(task: Task) -> tuple[torch.device, bool]:
    """Return the device of a task's settings, and whether it computes in bf16.

    Raises:
        ValueError: `device` is gpu, and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if task.device == "gpu" and not has_gpu:
        raise ValueError(
            "device is gpu, but torch finds no CUDA device; set it to auto or cpu, or check the driver"
        )
    on_gpu = has_gpu and task.device != "cpu"
    bf16 = task.precision == "bf16" or (task.precision == "auto" and on_gpu)
    return torch.device("cuda" if on_gpu else "cpu"), bf16
