"""The optimizers and their groups: decoupled weight decay, none on biases and norms.

    stableadamw   torch-optimi's: AdamW whose learning rate is divided, tensor by tensor, by max(1, RMS(g / sqrt(v)))
                  (Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
                  2304.13013, algorithm 2)
    adamw         torch's (Loshchilov and Hutter, 1711.05101), which clips nothing by itself
    muon          see `muon.py`

The decay is fully decoupled in all of them: a step multiplies a weight by 1 - weight_decay * (rate / peak rate of the
phase), so its strength follows the schedule and not the size of the learning rate, and one value of weight_decay means
the same to each. (In torch's own convention the factor is 1 - weight_decay * rate: our 1e-5 at a peak of 8e-4 is its
0.0125.) `rate` is the rate of the step; StableAdamW's is the one it has lowered, as in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from optimi import StableAdamW
from torch import nn

from modernbert_train.config import OptimizerConfig
from modernbert_train.optim.muon import NUM_PARTS, MuonAndAdamW

MUON_MOMENTUM = 0.95  # where the recipe gives none: that of Jordan's post
_PEAK_DECAY = (
    "peak_decay"  # of a group whose optimizer is torch's: what a weight loses in a step at the peak rate
)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay; biases and norm weights (vectors) without. Tied tensors count once."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    spared = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def muon_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Muon's matrices by how many lie in one parameter; for AdamW embeddings (and the decoder, which is tied to one),
    then vectors. The last group alone is spared weight decay.
    """
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    fused = _fused_parts(model)
    hidden = [p for p in model.parameters() if p.ndim == 2 and p not in embeddings]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in hidden if fused.get(p, 1) == num_parts], NUM_PARTS: num_parts}
        for num_parts in sorted({fused.get(p, 1) for p in hidden})
    ]
    for group in groups:
        group["momentum"] = _momentum(config)
    others = (
        [p for p in model.parameters() if p in embeddings],
        [p for p in model.parameters() if p.ndim < 2],
    )
    adamw = {NUM_PARTS: 0, "betas": config.betas, "eps": config.eps}
    return groups + [{"params": parameters, **adamw} for parameters in others]


def build_optimizer(model: nn.Module, config: OptimizerConfig, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer that the recipe names, over all parameters.

    Args:
        model: already on the device it trains on.
        config: name, betas, eps, weight decay (see above), momentum.
        learning_rate: the peak of the current phase; `set_learning_rate` moves it with the schedule.

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
            # optimi would pick its Triton kernel by the build of torch, not by where the weights are.
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
    """Set the learning rate of a step, and the peak that the decoupled weight decay refers to."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        if isinstance(optimizer, StableAdamW):
            group["max_lr"] = peak_learning_rate
        else:  # torch multiplies a weight by 1 - lr * weight_decay
            group["weight_decay"] = group[_PEAK_DECAY] / peak_learning_rate


def apply_settings(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> None:
    """Give an optimizer that was loaded from a checkpoint the recipe's settings, and the kernels of its device."""
    spared = optimizer.param_groups[-1]
    for group in optimizer.param_groups:
        weight_decay = 0.0 if group is spared else config.weight_decay
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
        if "eps_sq" in state:  # optimi's own copy
            state["eps_sq"].fill_(config.eps**2)


def _momentum(config: OptimizerConfig) -> float:
    return MUON_MOMENTUM if config.momentum is None else config.momentum


def _fused_parts(model: nn.Module) -> dict[nn.Parameter, int]:
    """How many matrices lie in each Wqkv and Wi: as often as what the Wo behind it takes in fits into its rows."""
    parts = {}
    for module in model.modules():
        for name in ("Wqkv", "Wi"):
            if hasattr(module, name) and hasattr(module, "Wo"):
                matrix = getattr(module, name).weight
                parts[matrix] = matrix.shape[0] // module.Wo.weight.shape[1]
    return parts
