"""Muon for the matrices between embedding and decoder, AdamW for everything else, in one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) orthogonalizes a matrix's momentum, approximately:
five Newton-Schulz iterations in bfloat16 bring all its singular values close to 1. The function behind torch.optim.Muon
does that here. The update is scaled by 0.2 sqrt(max(rows, columns)), which gives it the root mean square of AdamW's, so
that both parts use the same learning rate and weight decay (Liu et al. 2025, 2502.16982, section 2.2).

Wqkv stacks three matrices, and Wi of a gated MLP two. Each is a linear map of its own and is orthogonalized separately.
Jordan's post (section "Empirical considerations") finds that better for Q, K and V; Megatron-LM, which orthogonalized
fused gates as a whole, treats that as a bug (NVIDIA/Megatron-LM, issue 7077).

A class of our own is needed because torch.optim.Muon orthogonalizes whole parameters, and Composer needs to see a
single optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon
from torch.optim.adamw import adamw

# Key of a parameter group: how many matrices each of its parameters stacks; 0 marks a group of AdamW.
NUM_PARTS = "num_parts"


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon, with `momentum`, for groups with `num_parts` above 0; AdamW, with `betas` and `eps`, for the others."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters and return the loss of `closure`, which computes the gradients if it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group[NUM_PARTS]:
                self._step_muon(group, parameters)
            else:
                self._step_adamw(group, parameters)
        return loss

    def _step_muon(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

        def parts(whole: torch.Tensor | None) -> list[torch.Tensor]:
            assert whole is not None
            return list(whole.chunk(group[NUM_PARTS]))  # views, which muon() updates in place

        muon(
            [part for parameter in parameters for part in parts(parameter)],
            [part for parameter in parameters for part in parts(parameter.grad)],
            [part for parameter in parameters for part in parts(self.state[parameter]["momentum_buffer"])],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            nesterov=True,
            ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
            ns_steps=DEFAULT_NS_STEPS,
            eps=EPS,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )

    def _step_adamw(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list[torch.Tensor](parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
