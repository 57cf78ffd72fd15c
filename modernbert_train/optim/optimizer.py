"""StableAdamW with the groups of the references: decoupled weight decay, none on biases and norms.

The update is torch-optimi's: AdamW whose learning rate is divided, tensor by tensor, by max(1, RMS(g / sqrt(v)))
(Wortsman et al., "Stable and low-precision training for large-scale vision-language models", algorithm 2).
"""

from __future__ import annotations

from optimi import StableAdamW
from torch import nn

from modernbert_train.config import OptimizerConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices with weight decay; biases and norm weights (vectors) without. Tied tensors count once."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    spared = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, config: OptimizerConfig, learning_rate: float) -> StableAdamW:
    """StableAdamW over all parameters.

    Args:
        model: already on the device it trains on.
        config: betas, eps, weight decay. The decay is fully decoupled: a step multiplies a weight by
            1 - weight_decay * (lr / peak lr), so its strength follows the schedule and not the learning rate's size.
        learning_rate: the peak of the current phase; `set_learning_rate` moves it with the schedule.

    """
    on_gpu = next(model.parameters()).is_cuda
    return StableAdamW(
        parameter_groups(model, config.weight_decay),
        lr=learning_rate,
        betas=config.betas,
        eps=config.eps,
        decouple_lr=True,
        max_lr=learning_rate,
        # optimi would pick its Triton kernel by the build of torch, not by where the weights are.
        triton=on_gpu,
        foreach=False,
    )


def set_learning_rate(optimizer: StableAdamW, learning_rate: float, peak_learning_rate: float) -> None:
    """Set the learning rate of a step, and the peak that the decoupled weight decay refers to."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["max_lr"] = peak_learning_rate


def apply_settings(optimizer: StableAdamW, config: OptimizerConfig) -> None:
    """Give an optimizer that was loaded from a checkpoint the recipe's settings, and the kernels of its device."""
    for group, weight_decay in zip(optimizer.param_groups, (config.weight_decay, 0.0), strict=True):
        group["beta1"], group["beta2"] = config.betas
        group["eps"] = config.eps
        group["weight_decay"] = weight_decay
        group["triton"] = group["params"][0].is_cuda
    for state in optimizer.state.values():
        if "eps_sq" in state:  # optimi's own copy
            state["eps_sq"].fill_(config.eps**2)
