"""Rows of the embedding that no token has."""

import dataclasses

import pytest
import torch

from modernbert_train.checkpoints.hf.vocabulary import resize_vocabulary, without_padding
from modernbert_train.checkpoints.source import build_encoder
from tests.helpers.exported import TINY, random_weights
from tests.helpers.weights import make_info

WEIGHTS = random_weights(dataclasses.replace(TINY, vocab_size=283))
INFO = make_info(model=dataclasses.replace(TINY, vocab_size=283))


def loss_and_gradients(num_rows: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    info = dataclasses.replace(INFO, model=dataclasses.replace(TINY, vocab_size=num_rows))
    encoder = build_encoder(info, resize_vocabulary(WEIGHTS, num_rows))
    ids = torch.arange(20)
    bounds = torch.tensor([0, 20], dtype=torch.int32)
    loss, _ = encoder.loss_and_correct(ids, ids, bounds, 20, ids, ids.flip(0))
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in encoder.named_parameters()}


def test_padding_changes_neither_loss_nor_gradients() -> None:
    (expected, plain), (loss, padded) = loss_and_gradients(283), loss_and_gradients(320)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, gradient in plain.items():
        torch.testing.assert_close(padded[name][: len(gradient)], gradient, rtol=1e-4, atol=1e-5)
        assert padded[name][len(gradient) :].eq(0).all()


@pytest.mark.parametrize("num_rows", [283, 284, 320])
def test_padding_is_removed(num_rows: int) -> None:
    padded = dataclasses.replace(INFO, model=dataclasses.replace(TINY, vocab_size=num_rows))
    info, weights = without_padding(padded, resize_vocabulary(WEIGHTS, num_rows))
    assert info == INFO
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_rows_that_are_trained_stay() -> None:
    weights = {**WEIGHTS, "decoder.bias": torch.full((283,), -20.0)}
    assert without_padding(INFO, weights)[0] == INFO
