"""Every combination of the switches that validation allows: against the reference encoder, and one by one."""

from dataclasses import replace
from itertools import product
from typing import get_args, get_type_hints

import pytest
import torch

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.config import ModelConfig, validate
from modernbert_train.config.architecture import num_hidden_weights, num_parameters, weight_shapes
from modernbert_train.config.schema import MLPS, MODEL_SWITCHES, Mlp, Norm, Positions
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
from modernbert_train.model.layers import ACTIVATIONS
from modernbert_train.optim.optimizer import parameter_groups
from tests.helpers.little_recipe import a_phase, a_recipe
from tests.helpers.packed_documents import BERT, Packed, perturbed_model, random_documents, relative_error
from tests.helpers.weights import load_weights, make_info
from tests.model.test_encoder import run_compiled
from tests.reference import encoder as reference

TINY = ModelConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12,
    local_attention=8, global_attn_every_n_layers=2, global_rope_theta=100.0, local_rope_theta=30.0,
    max_position_embeddings=24,
)  # fmt: skip
TYPES = get_type_hints(ModelConfig)
VALUES = {switch: get_args(TYPES[switch]) or (False, True) for switch in MODEL_SWITCHES}
ALL = [
    replace(TINY, **dict(zip(VALUES, values, strict=True)))
    for values in product(*VALUES.values())
    if not validate(
        a_recipe(a_phase(), model=replace(TINY, **dict(zip(VALUES, values, strict=True))))
    )
]  # fmt: skip
LENGTHS = [20, 1, 24, 9]


def name(config):
    return "-".join(str(getattr(config, switch)) for switch in MODEL_SWITCHES)


def test_all_combinations_are_tested():
    num_blocks = 3  # pre-norm, post-norm, parallel
    assert len(ALL) == len(get_args(Norm)) * num_blocks * len(get_args(Mlp)) * len(get_args(Positions)) * 2


def test_every_mlp_is_described_and_computed():
    assert tuple(MLPS) == tuple(ACTIVATIONS) == get_args(Mlp)


@pytest.mark.parametrize("config", ALL, ids=name)
def test_weight_shapes_are_those_of_the_encoder(config):
    with torch.device("meta"):
        model = ModernBertForMaskedLM(config, attention_backend="torch")
    shapes = {key: tuple(weight.shape) for key, weight in model.state_dict().items()}
    assert list(weight_shapes(config).items()) == list(shapes.items())
    assert num_parameters(config) == sum(weight.numel() for weight in model.parameters())
    hidden = (*model.model.layers.parameters(), *model.head.parameters())
    assert num_hidden_weights(config) == sum(weight.numel() for weight in hidden if weight.ndim == 2)


@pytest.mark.parametrize("config", ALL, ids=name)
@pytest.mark.parametrize("causal", [False, True])
def test_logits_and_gradients_are_those_of_the_formulas(config, causal):
    packed = random_documents(LENGTHS, config.vocab_size)
    model = perturbed_model(config).double()
    model.set_causal(causal)
    weights = {key: weight.detach().clone().requires_grad_() for key, weight in model.named_parameters()}
    logits, expected = model(**packed.inputs()), reference.logits(config, weights, packed.documents, causal)
    # Our rotary tables are computed in float32.
    tolerance = 1e-5 if config.positions == "rope" else 1e-11
    assert relative_error(logits.detach(), expected.detach()) < tolerance
    grad = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.backward(grad)
    expected.backward(grad)
    for key, weight in model.named_parameters():
        assert relative_error(weight.grad, weights[key].grad) < tolerance, key


@pytest.mark.parametrize("config", ALL, ids=name)
def test_a_packed_document_gives_what_it_gives_alone(config):
    packed = random_documents(LENGTHS, config.vocab_size)
    model = perturbed_model(config)
    logits = model(**packed.inputs())
    alone = torch.cat([model(**Packed([document]).inputs()) for document in packed.documents])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", ALL, ids=name)
def test_causal_means_that_a_later_token_changes_no_earlier_output(config):
    packed = random_documents(LENGTHS, config.vocab_size)
    model = perturbed_model(config)
    changed = packed.inputs()
    at = LENGTHS[0] + LENGTHS[1] + 10  # within the third document
    changed["input_ids"][at] = changed["input_ids"][at] % (config.vocab_size - 1) + 1
    before = slice(at - 10, at)
    assert not torch.equal(model(**packed.inputs())[before], model(**changed)[before])
    model.set_causal(True)
    logits, others = model(**packed.inputs()), model(**changed)
    assert torch.equal(logits[:at], others[:at])
    assert not torch.equal(logits[at], others[at])
    end = sum(LENGTHS[:3])
    assert torch.equal(logits[end:], others[end:])  # other documents do not change either


@pytest.mark.parametrize("config", ALL, ids=name)
def test_a_checkpoint_holds_the_whole_model(config, tmp_path):
    model = perturbed_model(config)
    save_weights(tmp_path, model.state_dict(), make_info(model=config))
    other = ModernBertForMaskedLM(config, attention_backend="torch").eval()
    other.load_state_dict(load_weights(tmp_path)[0])  # strict
    inputs = random_documents(LENGTHS, config.vocab_size).inputs()
    assert torch.equal(model(**inputs), other(**inputs))


@pytest.mark.parametrize("config", ALL, ids=name)
def test_initial_weights_and_groups_of_the_optimizer(config):
    model = ModernBertForMaskedLM(config, attention_backend="torch")
    initialize_weights(model, config, torch.Generator().manual_seed(0))
    groups = parameter_groups(model, 1e-5)
    decayed, spared = ({id(weight) for weight in group["params"]} for group in groups)
    for key, weight in model.named_parameters():
        kind = key.split(".")[-1]
        if kind == "bias" or "norm" in key:
            assert torch.equal(weight, torch.full_like(weight, 0.0 if kind == "bias" else 1.0)), key
            assert id(weight) in spared
        else:
            scaled = ".Wo." in key and config.norm_placement == "pre"
            std = 0.8796 * config.initializer_range / (6**0.5 if scaled else 1)  # see test_initialization
            assert weight.std().item() == pytest.approx(std, rel=0.2), key
            assert id(weight) in decayed
    assert sum(weight.numel() for group in groups for weight in group["params"]) == num_parameters(config)


def test_learned_positions_restart_in_every_document():
    config = replace(TINY, positions="learned", num_hidden_layers=1)
    model = perturbed_model(config)
    model(**random_documents([3, 5], config.vocab_size).inputs()).sum().backward()
    reached = model.model.embeddings.position_embeddings.weight.grad.abs().sum(1) > 0
    assert reached.nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("field", ["embedding_dropout", "attn_out_dropout", "mlp_out_dropout"])
def test_each_dropout_drops_while_training_only(field):
    inputs = random_documents([50], BERT.vocab_size).inputs()
    none = dict.fromkeys(("embedding_dropout", "attn_out_dropout", "mlp_out_dropout"), 0.0)
    model = perturbed_model(replace(BERT, **none | {field: 0.5}))
    without = perturbed_model(replace(BERT, **none)).train()
    assert torch.equal(model(**inputs), without(**inputs))
    model.train()
    assert not torch.equal(model(**inputs), model(**inputs))


MIXED = replace(TINY, norm="rmsnorm", mlp="swiglu", parallel_block=True, bias=True)


@pytest.mark.parametrize("config", [BERT, MIXED], ids=["bert", "mixed"])
def test_bf16_autocast_is_near_float32(config):
    inputs = random_documents(LENGTHS, config.vocab_size).inputs()
    model = perturbed_model(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**inputs)
    assert relative_error(logits, model(**inputs)) < 2e-2


@pytest.mark.parametrize("config", [BERT, MIXED], ids=["bert", "mixed"])
def test_one_graph_for_any_number_of_documents(config):
    assert run_compiled("aot_eager", replace(config, max_position_embeddings=256)) == 1
