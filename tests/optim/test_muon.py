import numpy as np
import pytest
import torch
from torch import nn

from modernbert_train.config import ModelConfig, OptimizerConfig
from modernbert_train.config.architecture import num_parameters
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.optim.muon import NUM_PARTS
from modernbert_train.optim.optimizer import build_optimizer, muon_groups, set_learning_rate
from tests.optim.test_optimizer import PEAK, learning_rate
from tests.reference import adamw, muon

CONFIG = OptimizerConfig(name="muon", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, momentum=0.9)
MODEL = ModelConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)
# Tolerance, as a share of how far a matrix moves in 50 steps: Newton-Schulz is computed in bfloat16 (8 bits).
MOVED = 0.02


def make_model(**switches) -> ModernBertForMaskedLM:
    torch.manual_seed(0)
    return ModernBertForMaskedLM(ModelConfig(**{**MODEL.__dict__, **switches}), attention_backend="torch")


def parts_of(name: str, gated: bool = True) -> int:
    return 3 if "Wqkv" in name else 2 if "Wi" in name and gated else 1


def test_who_gets_what():
    model = make_model(bias=True, positions="learned")
    names = {parameter: name for name, parameter in model.named_parameters()}
    *matrices, embeddings, vectors = (
        (group[NUM_PARTS], {names[parameter] for parameter in group["params"]})
        for group in muon_groups(model, CONFIG)
    )
    assert embeddings == (
        0,
        {"model.embeddings.tok_embeddings.weight", "model.embeddings.position_embeddings.weight"},
    )
    assert vectors[0] == 0
    assert all(model.get_parameter(name).ndim == 1 for name in vectors[1])
    assert [num_parts for num_parts, _ in matrices] == [1, 2, 3]
    for num_parts, group in matrices:
        assert {parts_of(name) for name in group} == {num_parts}
    together = [p for group in muon_groups(model, CONFIG) for p in group["params"]]
    assert len(together) == len(set(together)) == len(names)
    assert sum(p.numel() for p in together) == num_parameters(
        ModelConfig(**{**MODEL.__dict__, "bias": True, "positions": "learned"})
    )


def test_a_plain_mlp_is_one_matrix():
    groups = muon_groups(make_model(mlp="gelu"), CONFIG)
    assert [group[NUM_PARTS] for group in groups] == [1, 3, 0, 0]


def test_orthogonalizing_by_hand():
    """Two rows at right angles, 3 and 4 long: 0.6 and 0.8 after scaling. Five times 3.4445 s - 4.775 s^3 + 2.0315 s^5:
    0.6 -> 1.1933 -> 0.9119 -> 0.8011 -> 0.9747 -> 0.7229;
    0.8 -> 0.9765 -> 0.7211 -> 1.0895 -> 0.696 -> 1.1192.
    """
    result = muon.orthogonalize(np.array([[3.0, 0.0], [0.0, 4.0]]))
    np.testing.assert_allclose(result, np.diag([0.7229, 1.1192]), atol=1e-4)


def run_fifty_steps(split: bool, momentum: float | None) -> tuple[dict, dict]:
    """Train 50 steps with a schedule, a new peak after 25 and a restart after 20.

    Returns the weights, and how far each is from the reference's, as a share of how far that has moved.
    """
    model = make_model()
    for parameter in model.parameters():
        parameter.data *= 0.01  # so that decay is a small part of how far a matrix moves
    start = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    config = OptimizerConfig(**{**CONFIG.__dict__, "momentum": momentum})
    optimizer = build_optimizer(model, config, PEAK)
    expected = {name: _start(name, weight, split) for name, weight in start.items()}
    random = torch.Generator().manual_seed(1)
    for step in range(50):
        peak = PEAK if step < 25 else PEAK / 2
        rate = learning_rate(step) * peak / PEAK
        set_learning_rate(optimizer, rate, peak)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
            _step(name, expected[name], parameter.grad.double().numpy(), rate, peak, momentum or 0.95)
        optimizer.step()
        if step == 20:
            state = optimizer.state_dict()
            optimizer = build_optimizer(model, config, PEAK)
            optimizer.load_state_dict(state)
    found = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    wanted = {name: np.concatenate([part.weight for part in parts]) for name, parts in expected.items()}
    away = {
        name: np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name] - start[name])
        for name in found
    }
    return found, away


def is_muons(name: str) -> bool:
    return "norm" not in name and "embeddings" not in name and "bias" not in name


def _start(name: str, weight: np.ndarray, split: bool) -> list:
    if not is_muons(name):
        return [adamw.start(weight)]
    return [muon.start(part) for part in np.split(weight, parts_of(name) if split else 1)]


def _step(name: str, parts: list, gradient: np.ndarray, rate: float, peak: float, momentum: float) -> None:
    decay = CONFIG.weight_decay if gradient.ndim == 2 else 0.0
    settings = {"learning_rate": rate, "peak": peak, "weight_decay": decay}
    for part, part_gradient in zip(parts, np.split(gradient, len(parts)), strict=True):
        if is_muons(name):
            muon.step(part, part_gradient, momentum=momentum, **settings)
        else:
            adamw.step(part, part_gradient, betas=CONFIG.betas, eps=CONFIG.eps, **settings)


@pytest.mark.parametrize("momentum", [0.9, None])
def test_fifty_steps_follow_the_reference(momentum):
    _, away = run_fifty_steps(split=True, momentum=momentum)
    assert max(value for name, value in away.items() if is_muons(name)) < MOVED
    assert max(value for name, value in away.items() if not is_muons(name)) < 1e-4


def test_fused_matrices_are_orthogonalized_part_by_part():
    """A reference without the split is far off for these matrices, and only for these."""
    _, away = run_fifty_steps(split=False, momentum=0.9)
    for name, value in away.items():
        assert (value > 5 * MOVED) == (is_muons(name) and parts_of(name) > 1), name


def test_the_size_of_an_update_is_that_of_adamw():
    """Its root mean square is 0.2 of the learning rate, whatever the shape, so both use one rate (2502.16982)."""
    for rows, columns in ((64, 64), (64, 256), (256, 64)):
        module = nn.Linear(columns, rows, bias=False)
        before = module.weight.detach().clone()
        optimizer = build_optimizer(module, OptimizerConfig(name="muon", weight_decay=0.0), 1.0)
        module.weight.grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        update = module.weight.detach() - before
        assert update.pow(2).mean().sqrt().item() == pytest.approx(0.2, rel=0.15)
