from typing import get_args

import numpy as np
import pytest
import torch

from modernbert_train.config import OptimizerConfig
from modernbert_train.config.schema import OptimizerName
from modernbert_train.optim.optimizer import apply_settings, build_optimizer, set_learning_rate
from tests.optim.test_optimizer import PEAK, gradient_of, learning_rate, make_module
from tests.reference import adamw as reference

CONFIG = OptimizerConfig(name="adamw", betas=(0.9, 0.98), eps=1e-6, weight_decay=5e-4)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fifty_steps_follow_the_reference(dtype, rtol):
    """With a schedule, a new peak after 25 steps, and a restart after 20."""
    module = make_module(dtype)
    optimizer = build_optimizer(module, CONFIG, PEAK)
    expected = {name: reference.start(p.detach().numpy()) for name, p in module.named_parameters()}
    random = torch.Generator().manual_seed(1)
    for step in range(50):
        inputs = torch.randn(8, 6, generator=random, dtype=torch.float64)
        targets = torch.randn(8, 4, generator=random, dtype=torch.float64)
        gradient_of(module, inputs.to(dtype), targets.to(dtype))
        peak = PEAK if step < 25 else PEAK / 2
        rate = learning_rate(step) * peak / PEAK
        set_learning_rate(optimizer, rate, peak)
        for name, parameter in module.named_parameters():
            reference.step(
                expected[name],
                parameter.grad.double().numpy(),
                learning_rate=rate,
                peak=peak,
                betas=CONFIG.betas,
                eps=CONFIG.eps,
                weight_decay=CONFIG.weight_decay if parameter.ndim == 2 else 0.0,
            )
        optimizer.step()
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(
                parameter.detach().double().numpy(), expected[name].weight, rtol=rtol, atol=rtol / 100
            )
        if step == 20:
            state = optimizer.state_dict()
            optimizer = build_optimizer(module, CONFIG, PEAK)
            optimizer.load_state_dict(state)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_the_recipe_wins_over_a_checkpoint(name):
    """An optimizer saved with other settings continues with those of the recipe."""
    saved = OptimizerConfig(name=name, betas=(0.5, 0.6), eps=1e-3, weight_decay=1e-4)
    wanted = OptimizerConfig(name=name, betas=(0.9, 0.95), eps=1e-8, weight_decay=5e-4)
    module = make_module()
    optimizer = build_optimizer(module, wanted, PEAK)
    expected = [_settings(group) for group in optimizer.param_groups]
    gradient_of(module, torch.ones(2, 6, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64))
    other = build_optimizer(module, saved, 2 * PEAK)
    other.step()
    optimizer.load_state_dict(other.state_dict())
    apply_settings(optimizer, wanted)
    set_learning_rate(optimizer, PEAK, PEAK)
    assert [_settings(group) for group in optimizer.param_groups] == expected


def _settings(group):
    return {key: value for key, value in group.items() if key not in ("params", "step", "setup")}


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_one_weight_decay_means_the_same_to_all(name):
    """At a quarter of the peak rate, a matrix loses a quarter of weight_decay, whatever the peak; a bias nothing."""
    for peak in (1e-4, 1e-2):
        module = make_module()
        before = {key: p.detach().clone() for key, p in module.named_parameters()}
        optimizer = build_optimizer(module, OptimizerConfig(name=name, weight_decay=5e-4), peak)
        set_learning_rate(optimizer, 0.25 * peak, peak)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for key, parameter in module.named_parameters():
            factor = 1 - 0.25 * 5e-4 if parameter.ndim == 2 else 1.0
            torch.testing.assert_close(parameter.detach(), factor * before[key], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_the_closure_is_called_once_with_gradients(name):
    """Composer computes loss and gradients in the closure: an optimizer that ignored it would never train."""
    module = make_module()
    optimizer = build_optimizer(module, OptimizerConfig(name=name), PEAK)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        gradient_of(module, torch.ones(2, 6, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64))
        return 7.5

    assert optimizer.step(closure=closure) == 7.5
    assert calls == [True]
    assert not any(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
