import dataclasses

import pytest
import torch

from modernbert_train.cli import main
from modernbert_train.config import ModelConfig
from modernbert_train.objectives import MaskedLM, NextToken
from modernbert_train.planning.cost import (
    describe_hours,
    estimate_tokens_per_s,
    gpu_hours,
    peak_flops,
    training_flops_per_token,
)
from modernbert_train.schedule import build_schedule
from tests.helpers.little_recipe import a_phase, a_recipe

TINY = ModelConfig(
    vocab_size=10,
    hidden_size=4,
    num_hidden_layers=3,
    num_attention_heads=1,
    intermediate_size=6,
    local_attention=2,
)
LARGE = ModelConfig(hidden_size=1_024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=2_624)


def test_a_tiny_model_by_hand():
    # A layer: 4 * 4^2 + 3 * 4 * 6 = 136 weights; three of them 408. Head and decoder: 4^2 + 4 * 10 = 56, half of them
    # used. Attended tokens: in layer 0 all 8, in layers 1 and 2 the token itself and one to either side, two less at
    # the ends: 22 for 8 tokens. Together 8 + 2 * 22 / 8 = 13.5 per token.
    assert training_flops_per_token(TINY, [8], MaskedLM(0.5)) == 6 * 436 + 12 * 4 * 13.5 == 3_264


def test_documents_attend_to_themselves_only():
    # 8^2 + 2^2 in the global layer, 22 + 2^2 in each of the others: (68 + 2 * 26) / 10 per token.
    assert training_flops_per_token(TINY, [8, 2], MaskedLM(0.5)) == pytest.approx(6 * 436 + 12 * 4 * 12)


def test_a_window_wider_than_the_context_sees_the_context():
    # Attended tokens: 2 in each of the three layers.
    assert training_flops_per_token(TINY, [2], MaskedLM(0.5)) == 6 * 436 + 12 * 4 * 6


def test_every_layer_global():
    everywhere = dataclasses.replace(TINY, global_attn_every_n_layers=1)
    assert training_flops_per_token(everywhere, [8], MaskedLM(0)) == 6 * 408 + 12 * 4 * 24


def test_an_mlp_without_a_gate():
    # A layer: 4 * 4^2 + 2 * 4 * 6 = 112 weights, three of them 336; nothing else changes.
    plain = dataclasses.replace(TINY, mlp="gelu")
    assert training_flops_per_token(plain, [8], MaskedLM(0.5)) == 6 * (336 + 28) + 12 * 4 * 13.5
    same = dataclasses.replace(TINY, mlp="swiglu", norm="rmsnorm", positions="learned", bias=True)
    assert training_flops_per_token(same, [8], MaskedLM(0.5)) == 3_264


@pytest.mark.parametrize(
    ("model", "context_tokens", "gigaflops"),
    [  # computed without the code, from the shapes in the paper
        (ModelConfig(), 1_024, 0.825),
        (ModelConfig(), 8_192, 1.353),
        (LARGE, 1_024, 2.308),
        (LARGE, 8_192, 3.189),
    ],
)
def test_the_models_of_the_paper(model, context_tokens, gigaflops):
    flops = training_flops_per_token(model, [context_tokens], MaskedLM(0.3))
    assert flops / 1e9 == pytest.approx(gigaflops, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peak_flops(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_flops() == peak


def test_no_peak_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert peak_flops() is None


def test_next_tokens_by_hand():
    # Attended tokens: in layer 0 1 to 8, 36 in all; in each of layers 1 and 2 one for the first token, two for
    # the others: 15. Head and decoder on 7 of 8 tokens.
    assert training_flops_per_token(TINY, [8], NextToken()) == 6 * (408 + 49) + 12 * 4 * 66 / 8
    # Another document of two tokens: 3 in each layer, and one more token that predicts nothing.
    both = training_flops_per_token(TINY, [8, 2], NextToken())
    assert both == pytest.approx(6 * (408 + 0.8 * 56) + 12 * 4 * (66 + 9) / 10)


def one_phase(**fields):
    """Build the schedule of one phase with 3.6 million steps of 128 tokens."""
    return build_schedule(a_recipe(a_phase(tokens=128 * 3_600_000, **fields)))


def test_hours_at_a_given_speed():
    (phase,) = one_phase().phases
    assert gpu_hours(phase, 1_000) == 128
    assert describe_hours(ModelConfig(), one_phase(), 1_000) == (
        "128.0 GPU-hours (16.0 on 8 GPUs, 4.0 on 32 GPUs), at the tokens/s given"
    )


def test_an_estimate_for_documents_of_the_whole_context():
    model = ModelConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4
    )
    (phase,) = one_phase(mask_rate=0.5).phases
    # 6 x (4 x 64 + 3 x 32 + 0.5 x (64 + 512)) + 12 x 8 x 16 tokens attended to by each token of a document of 16
    flops = 6 * (256 + 96 + 288) + 12 * 8 * 16
    assert flops == 5_376
    assert estimate_tokens_per_s(model, phase) == 0.3 * 989e12 / 5_376


def test_few_gpu_hours():
    text = describe_hours(ModelConfig(), build_schedule(a_recipe()), None)
    assert text.startswith("<0.1 GPU-hours (<0.1 on 8 GPUs, ")
    assert text.endswith("estimated at 30% of an H100's peak")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens-per-second", "9"], "--tokens-per-second is used by --dry-run only; add --dry-run"),
        (
            ["--gpus", "3"],
            "--gpus is used by --dry-run only; to train on several GPUs, start the command with a",
        ),
        (
            ["--dry-run", "--tokens-per-second", "0"],
            "--tokens-per-second: 0 is not allowed: must be a number",
        ),
    ],
)
def test_an_invalid_speed(tiny, capsys, arguments, message):
    try:
        status = main(["train", str(tiny), *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err
