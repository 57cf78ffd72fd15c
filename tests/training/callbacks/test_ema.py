"""The moving average of the weights: its arithmetic, and how it begins and ends; test_resume.py has killed runs."""

import shutil

import pytest
import torch

from modernbert_train.checkpoints.checkpoint import read_average, resolve
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.schedule import build_schedule
from modernbert_train.training.callbacks.ema import averaging_rate
from modernbert_train.training.train import train
from tests.helpers.weights import load_weights
from tests.reference.merging import moving_average

# Every step is saved, so that the test can compute the average from the checkpoints.
SAVE_ALL = ["training.save_every_tokens=1", "training.keep_checkpoints=100", "phases.extension=null"]
HALF_LIFE = "training.ema_half_life_tokens=6K"


@pytest.fixture(scope="module")
def finished(tiny):
    return train(load_recipe(tiny, [HALF_LIFE, *SAVE_ALL]))


def test_rate_by_hand():
    assert averaging_rate(1_000, 1_000, num_steps=9) == 0.5
    assert averaging_rate(2_000, 1_000, num_steps=9) == 0.75
    assert averaging_rate(1, 10**9, num_steps=9) == 0.1  # the plain mean of ten steps
    assert averaging_rate(1, 10**9, num_steps=0) == 1


def test_it_is_the_average_of_the_weights_of_all_steps(tiny, finished):
    """Includes a batch ramp: the first four steps have half the tokens."""
    plan = build_schedule(load_recipe(tiny, ["phases.extension=null"]))
    checkpoints = list_checkpoints(finished)
    assert len(checkpoints) == plan.total_steps
    tokens = [plan.batch_tokens(step) for step in range(plan.total_steps)]
    assert len(set(tokens)) == 2
    for name in ("head.dense.weight", "decoder.bias", "model.embeddings.tok_embeddings.weight"):
        series = [load_weights(path)[0][name].double() for path in checkpoints]
        expected = moving_average(series, 6_000, tokens)
        for at in (0, 1, len(series) - 1):
            average = read_average(checkpoints[at])[name]
            assert average.dtype == torch.float32
            assert torch.allclose(average.double(), expected[at], rtol=0, atol=1e-6)
    assert not torch.equal(average.double(), series[-1])


def test_the_average_does_not_change_training(tiny, tmp_path, finished):
    run = train(load_recipe(tiny, ["phases.extension=null", f"run_folder={tmp_path}/run"]))
    weights, expected = load_weights(run)[0], load_weights(finished)[0]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_average_is_extracted_evaluated_and_exported(tiny, tmp_path, finished, capsys):
    out = tmp_path / "ema"
    assert main(["average", str(finished), str(out), "--ema"]) == 0
    weights, info = load_weights(out)
    expected = read_average(resolve(finished))
    assert weights.keys() == load_weights(finished)[0].keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert info.merged.startswith("the moving average of ")
    assert main(["evaluate", str(out)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["export", str(out), str(tmp_path / "hf")]) == 0
    start = [
        "phases.extension=null",
        f"init.from={out}",
        f"run_folder={tmp_path}/on",
        "phases.pretrain.tokens=8K",
    ]
    train(load_recipe(tiny, start))


def test_switched_on_and_off_during_a_run(tiny, tmp_path, finished):
    """The average may start in the middle of a run, from the weights of that step on, and end before the run."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for path in list_checkpoints(run)[5:]:
        path.unlink()
    train(load_recipe(tiny, [*SAVE_ALL, f"run_folder={run}"]))
    with pytest.raises(ValueError, match="holds no moving average"):
        read_average(resolve(run))
    for path in list_checkpoints(run)[7:]:
        path.unlink()
    train(load_recipe(tiny, [HALF_LIFE, *SAVE_ALL, f"run_folder={run}"]))
    checkpoints = list_checkpoints(run)
    series = [load_weights(path)[0]["decoder.bias"].double() for path in checkpoints[7:]]
    expected = moving_average(series, 6_000, [2048] * len(series))[-1]
    assert torch.allclose(read_average(checkpoints[-1])["decoder.bias"].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(load_weights(run)[0]["decoder.bias"], load_weights(finished)[0]["decoder.bias"])
