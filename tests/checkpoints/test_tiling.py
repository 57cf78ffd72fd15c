import dataclasses
import re
from typing import get_args

import pytest
import torch

from modernbert_train.checkpoints.tiling import (
    layer_sources,
    source_name,
    tile,
    tile_indices,
    tiling_problems,
)
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import weight_shapes
from modernbert_train.config.schema import Mlp
from modernbert_train.model import ModernBertForMaskedLM
from tests.reference.tiling import rescale, tile_model

SMALL = ModelConfig(
    vocab_size=64, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=10,
    max_position_embeddings=16,
)  # fmt: skip
BERT = {"norm_placement": "post", "mlp": "gelu", "positions": "learned", "bias": True}
BASE = ModelConfig()
LARGE = ModelConfig(hidden_size=1_024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=2_624)


def numbered_weights(model):
    """Every element another number."""
    weights, first = {}, 0
    for name, shape in weight_shapes(model).items():
        size = torch.Size(shape).numel()
        weights[name] = torch.arange(first, first + size, dtype=torch.float32).view(shape)
        first += size
    weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"]
    return weights


@pytest.mark.parametrize(
    ("source", "target", "middle", "edge"),
    [
        (3, 8, "23123123", "12312312"),  # the tables of the research code's own test, test_tile_weight
        (2, 4, "2121", "1212"),
        (3, 5, "31231", "12312"),
        (1, 4, "1111", "1111"),
        (4, 4, "1234", "1234"),
    ],
)
def test_an_axis(source, target, middle, edge):
    for method, expected in (("tile_middle", middle), ("tile_edge", edge)):
        assert "".join(str(at + 1) for at in tile_indices(source, target, method).tolist()) == expected


def test_layers_of_large_from_base():
    expected = [
        0,
        1,
        2,
        2,
        3,
        4,
        5,
        6,
        6,
        7,
        8,
        9,
        9,
        10,
        11,
        12,
        13,
        13,
        14,
        15,
        16,
        16,
        17,
        18,
        19,
        20,
        20,
        21,
    ]
    assert layer_sources(22, 28) == expected
    assert layer_sources(3, 3) == [0, 1, 2]
    assert layer_sources(2, 5) == [0, 0, 1, 1, 1]  # not a layer 2, which there is not


def test_names():
    assert source_name("model.layers.27.attn.Wo.weight", BASE, LARGE) == "model.layers.21.attn.Wo.weight"
    assert source_name("model.final_norm.weight", BASE, LARGE) == "model.final_norm.weight"


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("method", ["tile_middle", "tile_edge"])
@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 7}, {"bias": True}, BERT, *({"mlp": mlp} for mlp in get_args(Mlp))],
    ids=["deeper by more than twice", "biases", "bert", *get_args(Mlp)],
)
def test_against_the_slow_twin(method, changes, rescaled):
    source = dataclasses.replace(SMALL, **{**changes, "num_hidden_layers": 3})
    larger = {"hidden_size": 20, "num_attention_heads": 5, "intermediate_size": 17, "num_hidden_layers": 5}
    target = dataclasses.replace(source, **larger | changes)
    weights = numbered_weights(source)
    tiled = tile(weights, source, target, method, rescaled)
    expected = tile_model(weights, source, target, method)
    if rescaled:
        rescale(expected, source, target, method)
    assert {name: tuple(weight.shape) for name, weight in tiled.items()} == weight_shapes(target)
    assert tiled.keys() == expected.keys()
    for name in tiled:
        assert torch.equal(tiled[name], expected[name]), name


def test_query_key_and_value_stay_apart():
    target = dataclasses.replace(SMALL, hidden_size=20, num_attention_heads=5, intermediate_size=17)
    weights = numbered_weights(SMALL)
    name = "model.layers.1.attn.Wqkv.weight"
    before, after = weights[name][:, 0].tolist(), tile(weights, SMALL, target, "tile_middle", False)[name]
    rows = [before.index(row) for row in after[:, 4].tolist()]  # column 4 is the old column 0
    # Five heads of four: the third, all of them, the first; of query, then key (12 on), then value (24 on).
    heads = [8, 9, 10, 11, *range(12), 0, 1, 2, 3]
    assert rows == [part * 12 + row for part in range(3) for row in heads]


def test_equal_sizes_change_nothing():
    weights = numbered_weights(SMALL)
    tiled = tile(weights, SMALL, SMALL, "tile_middle", True)
    assert all(torch.equal(tiled[name], weights[name]) for name in weights)


def logits(weights, model):
    encoder = ModernBertForMaskedLM(model, attention_backend="torch").eval()
    encoder.load_state_dict(weights)
    ids = torch.randint(0, 64, (14,), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([*range(9), *range(5)])
    return encoder(ids, positions, torch.tensor([0, 9, 14], dtype=torch.int32), 9).detach()


@pytest.mark.parametrize("method", ["tile_middle", "tile_edge"])
@pytest.mark.parametrize("changes", [{}, BERT, {"norm": "rmsnorm", "parallel_block": True}])
def test_twice_the_width_with_rescaling_computes_the_same(method, changes):
    source = dataclasses.replace(SMALL, **changes)
    weights = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(len(name))) * 0.3 + (len(shape) == 1)
        for name, shape in weight_shapes(source).items()
    }
    weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"]
    wide = dataclasses.replace(source, hidden_size=24, num_attention_heads=6, intermediate_size=25)
    expected = logits(weights, source)
    rescaled = logits(tile(weights, source, wide, method, True), wide)
    assert torch.allclose(
        rescaled, expected, rtol=0, atol=2e-4 * float(expected.abs().max())
    )  # eps of the norms
    assert not torch.allclose(
        logits(tile(weights, source, wide, method, False), wide), expected, rtol=0, atol=1
    )


def test_base_to_large_is_centred_as_in_the_research_code():
    """There dimensions are centred one by one, here heads: the same, since 1,024 - 768 is an even number of heads."""
    by_heads = tile_indices(12, 16, "tile_middle")[:, None] * 64 + torch.arange(64)
    assert torch.equal(by_heads.flatten(), tile_indices(768, 1_024, "tile_middle"))
    assert not list(tiling_problems(BASE, LARGE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2}, "model.num_hidden_layers: source 3, recipe 2: .* make it 3 or more"),
        (
            {"intermediate_size": 9},
            "model.intermediate_size: source 10, recipe 9: tiling cannot make a model smaller",
        ),
        ({"hidden_size": 8, "num_attention_heads": 2}, "model.hidden_size: source 12, recipe 8"),
        (
            {"hidden_size": 24},
            r"num_attention_heads: source 3 \(4 dimensions each\), recipe 3 \(8 each\): .* 4 x num_attention_heads",
        ),
        (
            {"positions": "learned", "max_position_embeddings": 32},
            "model.max_position_embeddings: source 16, recipe 32: learned positions cannot be tiled; make it 16",
        ),
    ],
)
def test_models_that_cannot_be_tiled(changes, message):
    (problem,) = tiling_problems(SMALL, dataclasses.replace(SMALL, **changes))
    assert re.search(message, problem)
