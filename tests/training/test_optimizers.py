"""Runs of the tiny recipe with the other optimizers."""

import shutil
from typing import get_args

import pytest
import torch

from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.config import load_recipe
from modernbert_train.config.schema import OptimizerName
from modernbert_train.planning.dry_run import describe
from modernbert_train.schedule import build_schedule
from modernbert_train.training.train import train
from tests.helpers.weights import load_weights
from tests.training.test_train import metrics

FEWER_STEPS = ["phases.pretrain.tokens=16K", "phases.extension.tokens=8K", "phases.extension.decay_tokens=8K"]


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_a_run_interrupted_in_either_phase_resumes_bit_for_bit(tiny, tmp_path, name):
    """Restarts from the first checkpoint and the last but one; learning rate and weight decay differ between phases."""
    overrides = [f"optimizer.name={name}", "optimizer.weight_decay=5e-4", "training.keep_checkpoints=9"]
    overrides += ["phases.extension.learning_rate=3e-3", "training.save_every_tokens=6K", *FEWER_STEPS]
    run = train(load_recipe(tiny, [*overrides, f"run_folder={tmp_path}/whole"]))
    steps, _ = metrics(run)
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    checkpoints = list_checkpoints(run)
    assert len(checkpoints) > 3
    for kept in (1, len(checkpoints) - 1):
        again = tmp_path / f"from-{kept}"
        shutil.copytree(run, again)
        for path in list_checkpoints(again)[kept:]:
            path.unlink()
        train(load_recipe(tiny, [*overrides, f"run_folder={again}"]))
        assert [line["loss"] for line in metrics(again)[0]] == [line["loss"] for line in steps]
        weights, expected = load_weights(again)[0], load_weights(run)[0]
        assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_the_size_of_a_checkpoint(tiny, tmp_path):
    """Muon keeps one moment per weight where AdamW keeps two; the dry run takes this into account."""
    sizes = {}
    for name in ("adamw", "muon"):
        overrides = [f"run_folder={tmp_path}/{name}", f"optimizer.name={name}", "phases.extension=null"]
        overrides.append("model.num_hidden_layers=4")  # a megabyte or more
        recipe = load_recipe(
            tiny, [*overrides, "phases.pretrain.tokens=4K", "phases.pretrain.warmup_tokens=0"]
        )
        (*_, newest) = list_checkpoints(train(recipe))
        sizes[name] = newest.stat().st_size / 1e6
        (printed,) = [
            line for line in describe(recipe, build_schedule(recipe)).splitlines() if "MB each" in line
        ]
        assert f"{sizes[name]:.0f}" == f"{float(printed.split('MB each')[0].split()[-1]):.0f}"
    assert sizes["muon"] < sizes["adamw"]
