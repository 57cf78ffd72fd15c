"""Parity with Transformers' ModernBERT in float32, on weights that all affect the output."""

from dataclasses import asdict, replace

import pytest
import torch
import transformers

from modernbert_train.config import ModelConfig
from modernbert_train.config.schema import MODEL_SWITCHES
from tests.helpers.packed_documents import (
    RAGGED,
    SMALL,
    Packed,
    perturbed_model,
    random_documents,
    relative_error,
)

OUR_OWN_FIELDS = (*MODEL_SWITCHES, "embedding_dropout", "attn_out_dropout", "mlp_out_dropout")


def transformers_model(config, state_dict):
    """Build Transformers' model with SDPA; special ids are 0, which is padding and occurs in no document."""
    fields = {name: value for name, value in asdict(config).items() if name not in OUR_OWN_FIELDS}
    fields |= dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), config.bias)
    fields["hidden_activation"] = {"geglu": "gelu", "swiglu": "silu"}[config.mlp]
    specials = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    hf_config = transformers.ModernBertConfig(**fields, **dict.fromkeys(specials, 0))
    hf_config._attn_implementation = "sdpa"
    model = transformers.ModernBertForMaskedLM(hf_config).eval()
    model.load_state_dict(state_dict)  # strict
    return model


def padded_logits(model, documents):
    """Compute the logits of a padded batch, without those of the padding: [T, vocabulary]."""
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(document) for document in documents], batch_first=True)
    logits = model(input_ids=pad(documents, batch_first=True), attention_mask=mask).logits
    return logits[mask.bool()]


def assert_logits(ours, theirs, groups):
    """Compare logits; Transformers pads the documents of each group together, we pack all of them."""
    packed = Packed([document for group in groups for document in group.documents])
    expected = torch.cat([padded_logits(theirs, group.documents) for group in groups])
    logits = ours(**packed.inputs())
    assert expected.abs().max() > 1  # initial weights would give logits near 0, and prove little
    assert (logits - expected).abs().max() < 1e-4
    return logits, expected


def assert_parity(config, groups):
    ours = perturbed_model(config)
    theirs = transformers_model(config, ours.state_dict())
    logits, expected = assert_logits(ours, theirs, groups)
    grad = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) / len(logits)
    logits.backward(grad)
    expected.backward(grad)
    for (name, weight), (their_name, their_weight) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        assert relative_error(weight.grad, their_weight.grad) < 1e-4, name


def test_small():
    assert_parity(SMALL, [random_documents([*RAGGED, 1024], SMALL.vocab_size)])


def test_other_thetas_window_and_layers():
    config = ModelConfig(
        vocab_size=64, hidden_size=48, num_hidden_layers=5, num_attention_heads=3, intermediate_size=40,
        local_attention=32, global_attn_every_n_layers=2, global_rope_theta=10_000.0, local_rope_theta=500.0,
        norm_eps=1e-3, max_position_embeddings=256,
    )  # fmt: skip
    assert_parity(config, [random_documents([200, 16, 17, 33], 64)])


@pytest.mark.parametrize("switches", [{"mlp": "swiglu"}, {"bias": True}, {"mlp": "swiglu", "bias": True}])
def test_switches_that_transformers_has(switches):
    config = replace(SMALL, **switches)
    assert_parity(config, [random_documents([*RAGGED, 200], config.vocab_size)])


def test_small_at_8192():
    config = replace(SMALL, num_hidden_layers=2)  # one attends globally, one locally
    groups = [random_documents(lengths, config.vocab_size) for lengths in ([8192], RAGGED)]
    assert_parity(config, groups)


@pytest.mark.slow
def test_base():
    config = ModelConfig()
    groups = [random_documents(lengths, config.vocab_size) for lengths in (RAGGED, [1024, 1000])]
    assert_parity(config, groups)


@pytest.mark.slow
@torch.no_grad()
def test_base_at_8192():
    config = ModelConfig()
    ours = perturbed_model(config)
    groups = [random_documents(lengths, config.vocab_size) for lengths in ([8192], [129])]
    assert_logits(ours, transformers_model(config, ours.state_dict()), groups)


def test_state_dict_both_ways():
    ours = perturbed_model(SMALL)
    state = ours.state_dict()
    theirs = transformers_model(SMALL, state).state_dict()
    assert {name: weight.shape for name, weight in state.items()} == {
        name: weight.shape for name, weight in theirs.items()
    }
    back = perturbed_model(SMALL, seed=1)
    back.load_state_dict(theirs)  # strict
    assert all(torch.equal(back.state_dict()[name], weight) for name, weight in state.items())
    assert back.decoder.weight is back.model.embeddings.tok_embeddings.weight
