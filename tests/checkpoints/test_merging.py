"""The arithmetic of merging, against slow twins and by hand."""

import pytest
import torch

from modernbert_train.checkpoints.merging import mean, ties, trim_threshold
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT
from tests.reference import merging as reference


def as_model(numbers):
    """Weights of a model from a list of 10 numbers: an embedding [2, 3], tied, and a bias [4]."""
    numbers = torch.tensor(numbers)
    embedding = numbers[:6].view(2, 3)
    return {EMBEDDING: embedding, TIED_WEIGHT: embedding, "decoder.bias": numbers[6:]}


def as_list(model):
    assert model[TIED_WEIGHT] is model[EMBEDDING]
    return [*model[EMBEDDING].flatten().tolist(), *model["decoder.bias"].tolist()]


def random_numbers(seed, scale=1.0):
    return (torch.randn(10, generator=torch.Generator().manual_seed(seed)) * scale).tolist()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [3.0, 1.0, 2.0]])
def test_mean(weights):
    models = [random_numbers(seed) for seed in range(3)]
    merged = mean((as_model(model) for model in models), weights)
    assert as_list(merged) == pytest.approx(reference.mean(models, weights), abs=1e-6)


def test_the_mean_of_equal_models_is_bitwise_equal():
    model = as_model(random_numbers(0))
    merged = mean([model] * 3, [1.0, 1.0, 1.0])
    assert all(torch.equal(merged[name], model[name]) for name in model)


def test_models_are_read_one_at_a_time():
    alive = []

    def read():
        for seed in range(3):
            assert sum(alive) == 0
            alive.append(1)
            yield as_model(random_numbers(seed))
            alive[-1] = 0

    mean(read(), [1.0] * 3)
    ties(as_model(random_numbers(9)), read(), 0.5)


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5, 1.0])
def test_ties(density):
    base = random_numbers(100)
    models = [
        [old + new for old, new in zip(base, random_numbers(seed, 0.1), strict=True)] for seed in range(5)
    ]
    merged = ties(as_model(base), (as_model(model) for model in models), density)
    assert as_list(merged) == pytest.approx(reference.ties(base, models, density), abs=1e-6)


def test_ties_by_hand():
    base = [0.0] * 10
    one = [4.0, -3, 0.1, 0, 0, 0, 0, 0, 0, 0]
    two = [2.0, 5, 0.1, 0, 0, 0, 0, 0, 0, 0]
    three = [3.0, -4, 0.2, 0, 0, 0, 0, 0, 0, 0]
    merged = as_list(ties(as_model(base), map(as_model, (one, two, three)), 0.2))
    # The mean of 4, 2 and 3; of -3, 5 and -4 the sum is below zero, and the mean of -3 and -4 stays; 0.1 is trimmed.
    assert merged == [3, -3.5, 0, 0, 0, 0, 0, 0, 0, 0]


def test_unchanged_parameters_stay():
    base = as_model(random_numbers(0))
    assert as_list(ties(base, [base, base], 0.2)) == as_list(base)


def test_trim_threshold():
    changes = [torch.tensor([[1.0, -5.0], [2.0, -3.0]]), torch.tensor([4.0])]
    assert [trim_threshold(changes, density) for density in (0.2, 0.4, 1.0, 0.01)] == [5, 4, 1, 5]
