"""`modernbert average`: its results are checkpoints like any other."""

import dataclasses
import re

import pytest
import torch

from modernbert_train.checkpoints import merging
from modernbert_train.checkpoints.checkpoint import resolve
from modernbert_train.checkpoints.info import read_info
from modernbert_train.cli import main
from modernbert_train.convert import average_checkpoints, export_checkpoint
from tests.helpers.exported import TINY, random_weights, write_checkpoint_of
from tests.helpers.weights import load_weights


def shifted(weights, by):
    moved = {name: weight + by for name, weight in weights.items()}
    return {**moved, "decoder.weight": moved["model.embeddings.tok_embeddings.weight"]}


@pytest.fixture
def three(tmp_path, weights):
    """Three checkpoints of a run, and one of another run that they all come from."""
    write_checkpoint_of(tmp_path / "base", weights, step=1, tokens=1_000)
    changed = [shifted(weights, by) for by in (0.1, 0.2, 0.6)]
    return [
        write_checkpoint_of(tmp_path / "run", model, step=step, tokens=1_000 * step)
        for step, model in zip((2, 3, 4), changed, strict=True)
    ]


def test_mean_of_checkpoints(tmp_path, three, weights, capsys):
    out = tmp_path / "out"
    assert main(["average", *map(str, three), str(out)]) == 0
    merged, info = load_weights(out)
    for name, weight in weights.items():
        assert torch.allclose(merged[name], weight + 0.3, rtol=0, atol=1e-6), name
    assert merged["decoder.weight"].data_ptr() == merged["model.embeddings.tok_embeddings.weight"].data_ptr()
    assert (info.step, info.tokens, info.keep) == (4, 4_000, True)
    assert re.fullmatch(
        r"the mean of .*step-00000002.pt \(step 2, 2,000 tokens\), .*step-00000004.*", info.merged
    )
    assert resolve(out) == out / "checkpoints/step-00000004.pt"
    assert "averaged: " in capsys.readouterr().out


def test_weights_and_kinds_of_sources(tmp_path, three, weights):
    """A run folder is its newest checkpoint; a Hugging Face folder is as good as a checkpoint."""
    hf = export_checkpoint(three[0], tmp_path / "hf")
    assert main(["average", str(hf), str(tmp_path / "run"), str(tmp_path / "out"), "--weights", "3,2"]) == 0
    merged, info = load_weights(tmp_path / "out")
    assert torch.allclose(merged["head.dense.weight"], weights["head.dense.weight"] + 0.3, rtol=0, atol=1e-6)
    assert "/hf by 3, " in info.merged


def test_ties_since_a_base(tmp_path, three, weights):
    out, base = tmp_path / "out", tmp_path / "base"
    assert main(["average", *map(str, three), str(out), "--ties", str(base), "--density", "0.5"]) == 0
    merged, info = load_weights(out)
    expected = merging.ties(load_weights(base)[0], [load_weights(path)[0] for path in three], 0.5)
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert "the TIES merge, density 0.5, of" in info.merged
    assert info.tokens == 4_000


def test_the_result_is_exported_and_its_card_says_what_it_is(tmp_path, three):
    out = average_checkpoints(three, tmp_path / "out")
    card = (export_checkpoint(out, tmp_path / "hf") / "README.md").read_text()
    assert re.search(r"Its weights are the mean of .*step-00000002\.pt", card)
    assert "This is the checkpoint after" not in card


def test_a_checkpoint_without_a_moving_average(tmp_path, three, capsys):
    assert main(["average", str(three[0]), str(tmp_path / "out"), "--ema"]) == 2
    assert "step-00000002.pt: holds no moving average; a run keeps one if" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    hf = export_checkpoint(three[0], tmp_path / "hf")
    assert main(["average", str(hf), str(tmp_path / "out"), "--ema"]) == 2
    assert "hf: a Hugging Face folder holds no moving average" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "out"], "step-00000002.pt: a single checkpoint is its own mean; name more"),
        (["{0}", "nowhere", "out"], "nowhere: no such run folder or checkpoint"),
        (["{0}", "{1}", "out", "--weights", "1"], "--weights has 1 numbers for 2 checkpoints"),
        (["{0}", "{1}", "out", "--weights", "1,-1"], "--weights is 1, -1: each must be a number above 0"),
        (["{0}", "{1}", "out", "--weights", "1,a"], "--weights is '1,a', must be one number per checkpoint"),
        (["{0}", "{1}", "out", "--density", "0.5"], "--density is used by --ties only"),
        (["{0}", "{1}", "out", "--ties", "{2}", "--density", "2"], "--density is 2: a share"),
        (["{0}", "out", "--ties", "{2}"], "TIES merges the changes of several checkpoints"),
        (["{0}", "{1}", "run"], "run exists and is not empty"),
    ],
)
def test_checkpoints_that_cannot_be_averaged(tmp_path, three, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["average", *(argument.format(*three) for argument in arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_differ(tmp_path, three, weights, capsys):
    wider = dataclasses.replace(read_info(three[0]).model, intermediate_size=64)
    write_checkpoint_of(tmp_path / "wider", random_weights(wider), wider)
    write_checkpoint_of(tmp_path / "later", weights, TINY, global_rope_theta=160_000.0)
    write_checkpoint_of(tmp_path / "causal", weights, TINY, objective="clm")
    for other, message in (
        ("wider", "model.intermediate_size is 48 and 64; merge checkpoints of one model"),
        ("later", "global_rope_theta is 10000.0 and 160000.0; merge checkpoints"),
        ("causal", "objective is mlm and clm; merge checkpoints"),
    ):
        assert main(["average", str(three[0]), str(tmp_path / other), str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_learned_positions_of_another_length(tmp_path, capsys):
    for name, length in (("short", 64), ("long", 96)):
        model = dataclasses.replace(TINY, positions="learned", max_position_embeddings=length)
        write_checkpoint_of(tmp_path / name, random_weights(model), model)
    assert main(["average", str(tmp_path / "short"), str(tmp_path / "long"), str(tmp_path / "out")]) == 2
    assert "cannot be merged: model.max_position_embeddings is 64 and 96; merge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
