import math

import pytest
import torch

from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
from tests.helpers.packed_documents import SMALL


@pytest.fixture(scope="module")
def model():
    model = ModernBertForMaskedLM(SMALL)
    initialize_weights(model, SMALL, torch.Generator().manual_seed(0))
    return model


def test_spread_of_the_weights(model):
    # A normal distribution cut off at two sigma has 0.8796 of its standard deviation:
    # sqrt(1 - 2 * 2 * pdf(2) / (1 - 2 * (1 - cdf(2)))).
    sigma = {"in": 0.02, "out": 0.02 / math.sqrt(2 * 4)}
    kinds = dict.fromkeys(("tok_embeddings", "Wqkv", "Wi", "dense", "decoder"), "in") | {"Wo": "out"}
    seen = set()
    for name, weight in model.state_dict().items():
        kind = kinds.get(name.split(".")[-2])
        if weight.ndim == 2:
            seen.add(name.split(".")[-2])
            assert weight.abs().max() <= 2 * sigma[kind]
            assert weight.std().item() == pytest.approx(0.8796 * sigma[kind], rel=0.03)
            assert weight.mean().abs() < 0.03 * sigma[kind]
    assert seen == set(kinds)


def test_norms_and_bias(model):
    for name, weight in model.state_dict().items():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.full_like(weight, 0.0 if name == "decoder.bias" else 1.0)), name


def test_the_decoder_stays_tied(model):
    assert model.decoder.weight is model.model.embeddings.tok_embeddings.weight


def test_the_generator_decides():
    models = [ModernBertForMaskedLM(SMALL) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialize_weights(model, SMALL, torch.Generator().manual_seed(seed))
    first, second, third = (model.head.dense.weight for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
