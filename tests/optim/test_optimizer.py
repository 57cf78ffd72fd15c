import numpy as np
import pytest
import torch
from torch import nn

from modernbert_train.config import ModelConfig, OptimizerConfig
from modernbert_train.config.architecture import num_parameters
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.optim.optimizer import build_optimizer, parameter_groups, set_learning_rate
from tests.reference import adamw, stable_adamw

PEAK = 3e-3
SPIKE_STEP = 30


def make_module(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two matrices and two biases, with no activation that could damp a spike of the input."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).to(dtype)


def gradient_of(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    module.zero_grad()
    (module(inputs) - targets).pow(2).mean().backward()


def learning_rate(step: int) -> float:
    """Warmup of 10 steps, the peak, and decay to nearly 0."""
    return PEAK * min((step + 1) / 10, 1.0, (50 - step) / 10)


def test_matrices_decay_and_vectors_do_not():
    config = ModelConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12
    )
    model = ModernBertForMaskedLM(config, attention_backend="torch")
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, spared = (
        {names[parameter] for parameter in group["params"]} for group in parameter_groups(model, 1e-5)
    )
    assert "model.embeddings.tok_embeddings.weight" in decayed
    assert {name for name in decayed if "norm" in name or "bias" in name} == set()
    assert "decoder.bias" in spared
    assert {name for name in spared if "norm" not in name} == {"decoder.bias"}
    assert decayed | spared == set(names.values())
    assert [group["weight_decay"] for group in parameter_groups(model, 1e-5)] == [1e-5, 0.0]
    # The decoder's matrix is tied to the embedding, so the groups contain it once.
    assert model.decoder.weight is model.model.embeddings.tok_embeddings.weight
    sizes = [p.numel() for group in parameter_groups(model, 1e-5) for p in group["params"]]
    assert sum(sizes) == num_parameters(config)


def assert_follows_the_reference(module: nn.Module, rtol: float) -> None:
    """Train 50 steps with a schedule, an input 1,000 times too large in one step, and a restart."""
    config = OptimizerConfig(betas=(0.9, 0.98), eps=1e-6, weight_decay=5e-4)
    optimizer = build_optimizer(module, config, PEAK)
    expected = {name: adamw.start(p.detach().cpu().numpy()) for name, p in module.named_parameters()}
    random = torch.Generator().manual_seed(1)
    lowered = []
    for step in range(50):
        inputs = torch.randn(8, 6, generator=random, dtype=torch.float64)
        inputs[0] *= 1_000 if step == SPIKE_STEP else 1
        targets = torch.randn(8, 4, generator=random, dtype=torch.float64)
        like = next(module.parameters())
        gradient_of(module, inputs.to(like), targets.to(like))
        set_learning_rate(optimizer, learning_rate(step), PEAK)
        for name, parameter in module.named_parameters():
            factor = stable_adamw.step(
                expected[name],
                parameter.grad.double().cpu().numpy(),
                learning_rate=learning_rate(step),
                peak=PEAK,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay if parameter.ndim == 2 else 0.0,
            )
            lowered.append((step, name, factor))
        optimizer.step()
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(
                parameter.detach().double().cpu().numpy(), expected[name].weight, rtol=rtol, atol=rtol / 100
            )
        if step == 20:
            state = optimizer.state_dict()
            optimizer = build_optimizer(module, config, PEAK)
            optimizer.load_state_dict(state)
    assert max(factor for step, _, factor in lowered if step == SPIKE_STEP) > 3, "nothing was clipped"


def test_fifty_steps_follow_the_reference():
    assert_follows_the_reference(make_module(), rtol=1e-12)


def test_fifty_steps_in_float32_follow_the_reference():
    assert_follows_the_reference(make_module(torch.float32), rtol=1e-5)


@pytest.mark.gpu
def test_fifty_steps_on_a_gpu_follow_the_reference():
    """With weights on a GPU, a Triton kernel computes the update."""
    module = make_module(torch.float32).cuda()
    assert build_optimizer(module, OptimizerConfig(), PEAK).defaults["triton"]
    assert_follows_the_reference(module, rtol=1e-4)


def test_clipping_by_hand():
    # One weight, gradients 1 and 100, betas .9 and .98. Step 2: m = .473684 + .526316 * 100 = 53.1053,
    # v = .494949 + .505051 * 100^2 = 5051.00; RMS = 100 / sqrt(v) = 1.40705; m / sqrt(v) / RMS = .531053.
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    module = nn.ParameterList([weight])
    optimizer = build_optimizer(module, OptimizerConfig(eps=0.0), learning_rate=1.0)
    for gradient, expected in ((1.0, -1.0), (100.0, -1.0 - 0.531053)):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert weight.item() == pytest.approx(expected, abs=1e-5)


def test_clipping_is_by_tensor():
    def after_two_steps(spike: float) -> list[torch.Tensor]:
        module = nn.ParameterList([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))])
        optimizer = build_optimizer(module, OptimizerConfig(), learning_rate=1.0)
        for factor in (1.0, spike):
            module[0].grad, module[1].grad = factor * torch.ones(3), torch.ones(3)
            optimizer.step()
        return [parameter.detach() for parameter in module]

    calm, spiky = after_two_steps(1.0), after_two_steps(100.0)
    assert not torch.equal(calm[0], spiky[0])
    assert torch.equal(calm[1], spiky[1])


def test_a_new_phase_may_have_another_peak():
    module = make_module()
    optimizer = build_optimizer(module, OptimizerConfig(weight_decay=5e-4), 1e-3)
    set_learning_rate(optimizer, 3e-4, 3e-4)
    before = module[0].weight.detach().clone()
    module[0].weight.grad = torch.zeros_like(before)
    optimizer.step()
    torch.testing.assert_close(module[0].weight.detach(), (1 - 5e-4) * before, rtol=1e-14, atol=0)
