"""The cost of a run: model FLOPs, for the utilization (MFU) of a device, GPU-hours, and disk space of checkpoints.

Model FLOPs are those of the matrix products, forward and backward (three times the forward pass), as in appendix B of
PaLM (2204.02311). Recomputation, norms and activations do not count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modernbert_train.config import ModelConfig, Recipe
from modernbert_train.config.architecture import num_global_layers, num_hidden_weights, num_parameters
from modernbert_train.config.schema import OPTIMIZERS
from modernbert_train.objectives import Objective
from modernbert_train.schedule import PhaseSchedule, RunSchedule

# Dense bf16 peaks from the vendors' data sheets, by the device name in torch.
H100_PEAK_FLOPS = 989e12
_PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": H100_PEAK_FLOPS,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2_250e12,
}


def training_flops_per_token(model: ModelConfig, lengths: npt.ArrayLike, objective: Objective) -> float:
    """Return the mean model FLOPs per token of training.

    A token costs 6 FLOPs for each weight in the matrices of the layers, and a target 6 more for each weight of head and
    decoder (d^2 + d V). Attention costs 12 d per layer for each token that a token attends to: its document or the part
    of it in the window, and with a causal objective only itself and what precedes it.

    Args:
        model: sizes of the model.
        lengths: tokens of each document.
        objective: what the model is trained to predict.

    Returns:
        FLOPs per token, padding not counted.
    """
    hidden, layers = model.hidden_size, model.num_hidden_layers
    dense = hidden**2  # in the head
    weights: float = num_hidden_weights(model) - dense
    length = np.asarray(lengths, dtype=np.float64)
    weights += objective.target_share(lengths) * (dense + hidden * model.vocab_size)
    reach = np.minimum(model.local_attention // 2, length - 1)
    # The first and the last `reach` tokens of a document see 1 to `reach` tokens less than 2 * reach + 1.
    in_window = length * (2 * reach + 1) - reach * (reach + 1)
    num_global = num_global_layers(model)
    attended = num_global * length**2 + (layers - num_global) * in_window
    if objective.causal:
        # Of any two tokens in reach of each other, one attends to the other, and every token attends to itself.
        attended = (attended + layers * length) / 2
    return float(6 * weights + 12 * hidden * attended.sum() / length.sum())


def peak_flops() -> float | None:
    """Return the dense bf16 peak of the CUDA device in FLOP/s; None if there is none or it is not in the table."""
    import torch  # here, because a dry run does without it

    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_name()
    return next((peak for name, peak in _PEAK_FLOPS.items() if name in device), None)


# ModernBERT-base and -large were trained at 26% and 33% on H100s (published hours, FLOPs as defined above).
ASSUMED_UTILIZATION = 0.3
GPUS_SHOWN = (8, 32)
_BYTES_PER_NUMBER = 4  # fp32


def estimate_tokens_per_s(model: ModelConfig, phase: PhaseSchedule) -> float:
    """Estimate the tokens/s of an H100 in a phase, with documents as long as the context."""
    flops = training_flops_per_token(model, [phase.config.context_tokens], phase.objective)
    return ASSUMED_UTILIZATION * H100_PEAK_FLOPS / flops


def gpu_hours(phase: PhaseSchedule, speed: float) -> float:
    """Return the hours that one GPU takes for a phase at `speed` tokens/s."""
    return phase.num_tokens / speed / 3_600


def describe_hours(model: ModelConfig, schedule: RunSchedule, tokens_per_s: float | None) -> str:
    """Describe the GPU-hours of a run in a line: at `tokens_per_s` on each GPU, or estimated."""
    total = sum(
        gpu_hours(phase, tokens_per_s or estimate_tokens_per_s(model, phase)) for phase in schedule.phases
    )
    spans = ", ".join(f"{format_hours(total / count)} on {count} GPUs" for count in GPUS_SHOWN)
    basis = (
        f"estimated at {ASSUMED_UTILIZATION:.0%} of an H100's peak"
        if tokens_per_s is None
        else "at the tokens/s given"
    )
    return f"{format_hours(total)} GPU-hours ({spans}), {basis}"


def format_hours(hours: float) -> str:
    """Format hours with one decimal."""
    return f"{hours:,.1f}" if hours >= 0.05 else "<0.1"


def format_span(seconds: float) -> str:
    """Format a time in the unit that suits it: `40 s`, `12 minutes`, `3.4 hours`, `9.2 days` or `3.1 years`."""
    for unit, size in (("years", 365 * 86_400), ("days", 86_400), ("hours", 3_600)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


def checkpoint_bytes(recipe: Recipe) -> int:
    """Return the size of a checkpoint: weights, the optimizer's moments, and the moving average if there is one."""
    optimizer, hidden = OPTIMIZERS[recipe.optimizer.name], num_hidden_weights(recipe.model)
    others = num_parameters(recipe.model) - hidden
    numbers = (1 + optimizer.num_moments) * others + (1 + optimizer.num_hidden_moments) * hidden
    if recipe.training.ema_half_life_tokens:
        numbers += num_parameters(recipe.model)
    return numbers * _BYTES_PER_NUMBER


def checkpoints_on_disk_bytes(recipe: Recipe, schedule: RunSchedule) -> int:
    """Return the most space that checkpoints take: the newest, the last of each phase, and one being written."""
    saves = schedule.estimate_num_due(recipe.training.save_every_tokens)
    on_disk = min(saves, recipe.training.keep_checkpoints + len(schedule.phases)) + 1
    return on_disk * checkpoint_bytes(recipe)
