"""The optimizers and their parameter groups, with decoupled weight decay for matrices only.

    stableadamw   torch-optimi's: AdamW whose learning rate is divided, tensor by tensor, by max(1, RMS(g / sqrt(v)))
                  (Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
                  2304.13013, algorithm 2)
    adamw         torch's (Loshchilov and Hutter, 1711.05101), without clipping
    muon          see `muon.py`

Weight decay is fully decoupled in all of them: a step multiplies a weight by 1 - weight_decay * (rate / peak rate of
the phase). The decay follows the schedule but not the size of the learning rate, and a value of weight_decay means the
same to all. (In torch's convention the factor is 1 - weight_decay * rate, so our 1e-5 at a peak of 8e-4 is its 0.0125.)
`rate` is the step's learning rate; for StableAdamW the divided one, as in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from optimi import StableAdamW
from torch import nn

from modernbert_train.config import OptimizerConfig
from modernbert_train.optim.muon import NUM_PARTS, MuonAndAdamW

# Default of Jordan's post.
MUON_MOMENTUM = 0.95

# By name in a recipe.
OPTIMIZER_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "stableadamw": StableAdamW,
    "adamw": torch.optim.AdamW,
    "muon": MuonAndAdamW,
}

# Key of a parameter group of torch's optimizers: the share of a weight that a step at the peak rate removes.
_PEAK_DECAY = "peak_decay"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices with weight decay, vectors (biases and norm weights) without."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def muon_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the groups of `MuonAndAdamW`, the last of which has no weight decay.

    Returns:
        Muon's matrices, a group for each number of stacked matrices; then AdamW's embeddings, which include the tied
        decoder; then AdamW's vectors.
    """
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    stacked = _num_parts(model)
    hidden = [p for p in model.parameters() if p.ndim == 2 and p not in embeddings]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in hidden if stacked.get(p, 1) == num_parts], NUM_PARTS: num_parts}
        for num_parts in sorted({stacked.get(p, 1) for p in hidden})
    ]
    for group in groups:
        group["momentum"] = _momentum(config)
    tables = [p for p in model.parameters() if p in embeddings]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    adamw = {NUM_PARTS: 0, "betas": config.betas, "eps": config.eps}
    return [*groups, {"params": tables, **adamw}, {"params": vectors, **adamw}]


def build_optimizer(model: nn.Module, config: OptimizerConfig, learning_rate: float) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over all parameters.

    Args:
        model: the model, on the device it trains on.
        config: the recipe's section; see the top of this module for the weight decay.
        learning_rate: the peak of the current phase; `set_learning_rate` sets that of each step.

    Returns:
        An optimizer without state.
    """
    if config.name == "stableadamw":
        on_gpu = next(model.parameters()).is_cuda
        return StableAdamW(
            parameter_groups(model, config.weight_decay),
            lr=learning_rate,
            betas=config.betas,
            eps=config.eps,
            decouple_lr=True,
            max_lr=learning_rate,
            # By default, optimi would choose its Triton kernel by the build of torch, not by the weights' device.
            triton=on_gpu,
            foreach=False,
        )
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        groups = parameter_groups(model, config.weight_decay)
        optimizer = torch.optim.AdamW(
            groups, lr=learning_rate, betas=config.betas, eps=config.eps, fused=True
        )
    else:
        assert config.name == "muon", config.name
        optimizer = MuonAndAdamW(muon_groups(model, config), lr=learning_rate)
    apply_settings(optimizer, config)
    set_learning_rate(optimizer, learning_rate, learning_rate)
    return optimizer


def set_learning_rate(
    optimizer: torch.optim.Optimizer, learning_rate: float, peak_learning_rate: float
) -> None:
    """Set the learning rate of a step, and the peak that the weight decay is relative to."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        if isinstance(optimizer, StableAdamW):
            group["max_lr"] = peak_learning_rate
        else:  # torch multiplies a weight by 1 - lr * weight_decay
            group["weight_decay"] = group[_PEAK_DECAY] / peak_learning_rate


def apply_settings(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> None:
    """Apply the recipe's settings, and its device's kernels, to an optimizer loaded from a checkpoint."""
    vectors = optimizer.param_groups[-1]
    for group in optimizer.param_groups:
        weight_decay = 0.0 if group is vectors else config.weight_decay
        if isinstance(optimizer, StableAdamW):
            group["beta1"], group["beta2"] = config.betas
            group["eps"] = config.eps
            group["weight_decay"] = weight_decay
            group["triton"] = group["params"][0].is_cuda
        else:
            group[_PEAK_DECAY] = weight_decay
            if "momentum" in group:
                group["momentum"] = _momentum(config)
            else:
                group["betas"], group["eps"] = config.betas, config.eps
    for state in optimizer.state.values():
        if "eps_sq" in state:  # optimi keeps its own copy
            state["eps_sq"].fill_(config.eps**2)


def _momentum(config: OptimizerConfig) -> float:
    return MUON_MOMENTUM if config.momentum is None else config.momentum


def _num_parts(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the number of stacked matrices in each Wqkv and Wi: its rows divided by the input size of its Wo."""
    parts = {}
    for module in model.modules():
        for name in ("Wqkv", "Wi"):
            if hasattr(module, name) and hasattr(module, "Wo"):
                matrix = getattr(module, name).weight
                parts[matrix] = matrix.shape[0] // module.Wo.weight.shape[1]
    return parts
