"""Parity with Transformers' BERT under BERT's switches in float32, on weights that all affect the output."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from modernbert_train.checkpoints.hf.bert import TOKEN_TYPES, to_bert_weights
from modernbert_train.checkpoints.hf.config import from_hf_weights, hf_layout
from modernbert_train.checkpoints.hf.layout import arrange
from modernbert_train.config import ModelConfig
from tests.helpers.packed_documents import BERT, RAGGED, perturbed_model, random_documents, relative_error
from tests.model.test_parity import assert_logits

BASE = ModelConfig(
    vocab_size=30_528, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3_072,
    norm_placement="post", mlp="gelu", positions="learned", bias=True, global_attn_every_n_layers=1,
    norm_eps=1e-12, max_position_embeddings=512,
)  # fmt: skip


def transformers_model(config, weights):
    """Build Transformers' model with SDPA; padding is 0, which occurs in no document."""
    hf_config = transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        layer_norm_eps=config.norm_eps,
        pad_token_id=0,
    )
    hf_config._attn_implementation = "sdpa"
    model = transformers.BertForMaskedLM(hf_config).eval()
    tied = {
        "cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": weights["cls.predictions.bias"],
    }
    model.load_state_dict(weights | tied)  # strict
    return model


def our_weights(model):
    return {name: weight.detach() for name, weight in model.named_parameters()}


def to_ours(weights, config):
    content = {"model_type": "bert"}
    layout = hf_layout(content, config)
    names = arrange(weights, layout, Path("bert")).names
    return from_hf_weights({bare: weights[name] for bare, name in names.items()}, content, layout)


def assert_parity(config, groups):
    ours = perturbed_model(config)
    theirs = transformers_model(config, to_bert_weights(our_weights(ours), config))
    logits, expected = assert_logits(ours, theirs, groups)
    grad = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) / len(logits)
    logits.backward(grad)
    expected.backward(grad)
    their_grads = {name: weight.grad for name, weight in theirs.named_parameters()}
    their_grads[f"bert.{TOKEN_TYPES}"] = torch.zeros_like(
        their_grads[f"bert.{TOKEN_TYPES}"]
    )  # an import adds it to the positions
    their_grads = to_ours(their_grads, config)
    assert their_grads.keys() == our_weights(ours).keys()
    for name, weight in ours.named_parameters():
        assert relative_error(weight.grad, their_grads[name]) < 1e-4, name


def test_small():
    assert_parity(BERT, [random_documents([*RAGGED, 512], BERT.vocab_size)])


def test_other_sizes():
    config = replace(BERT, hidden_size=48, num_attention_heads=3, num_hidden_layers=5, norm_eps=1e-3)
    assert_parity(config, [random_documents([200, 16, 17, 33], config.vocab_size)])


@pytest.mark.slow
def test_base():
    assert_parity(BASE, [random_documents(lengths, BASE.vocab_size) for lengths in (RAGGED, [512, 500])])


def test_the_embedding_of_token_type_0_goes_into_the_positions():
    ours = perturbed_model(BERT)
    weights = to_bert_weights(our_weights(ours), BERT)
    assert torch.equal(weights[f"bert.{TOKEN_TYPES}"], torch.zeros(2, BERT.hidden_size))
    weights[f"bert.{TOKEN_TYPES}"] = torch.randn(
        2, BERT.hidden_size, generator=torch.Generator().manual_seed(2)
    )
    back = perturbed_model(BERT, seed=1)
    imported = to_ours(weights, BERT)
    back.load_state_dict(imported | {"decoder.weight": imported["model.embeddings.tok_embeddings.weight"]})
    assert_logits(back, transformers_model(BERT, weights), [random_documents(RAGGED, BERT.vocab_size)])


def test_weights_both_ways():
    weights = our_weights(perturbed_model(BERT))
    back = to_ours(to_bert_weights(weights, BERT), BERT)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())
