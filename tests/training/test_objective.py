"""A phase of next-token prediction with causal attention, followed by a phase of masked LM."""

import json
import math
import re
import shutil

import pytest

from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.evaluation.masked_lm import evaluate_masked_lm
from modernbert_train.evaluation.tables import format_scores
from modernbert_train.training.train import train
from tests.helpers.kill import assert_same_run
from tests.training.test_phases import phase_end, steps_of

OVERRIDES = [
    "phases.pretrain.objective=clm", "phases.pretrain.tokens=50K", "phases.pretrain.batch_ramp=null",
    "phases.extension.objective=mlm", "phases.extension.tokens=50K", "phases.extension.context_tokens=64",
    "model.attn_out_dropout=0", "training.save_every_tokens=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny):
    return train(load_recipe(tiny, OVERRIDES))


def held_out(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["phase"]: line for line in lines if "eval" in line}


def test_both_phases_learn_their_objective(whole):
    """Each token is followed by itself or its successor; all 50 are equally frequent, so a guess needs context."""
    unigram = math.log(50)
    for phase, objective, mask_rate in (("pretrain", "clm", None), ("extension", "mlm", 0.3)):
        steps = steps_of(whole, phase)
        assert {(step["objective"], step["mask_rate"]) for step in steps} == {(objective, mask_rate)}
        assert steps[0]["loss"] > unigram
        assert steps[-1]["loss"] < unigram - 1
        assert held_out(whole)[phase]["objective"] == objective
        assert all(score["loss"] < unigram - 1 for score in held_out(whole)[phase]["eval"].values())


def test_evaluation_uses_the_objective_of_the_checkpoint(whole):
    for phase, asked in (("pretrain", "next token"), ("extension", "masked")):
        scores = evaluate_masked_lm(phase_end(whole, phase), device="cpu", progress_bar=False)
        table = format_scores(scores).splitlines()
        assert re.match(f"source +tokens +{asked} +loss", table[0])
        for score in scores:
            during = held_out(whole)[phase]["eval"][score.source]
            assert score.loss == pytest.approx(during["loss"], rel=1e-5)
            # The baseline also counts [SEP], which is in no store.
            assert score.unigram.loss == pytest.approx(math.log(50), abs=0.15)


def test_a_causal_checkpoint_is_not_exported(whole, tmp_path, capsys):
    checkpoint = phase_end(whole, "pretrain")
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert f"{checkpoint}: its phase pretrain has objective clm, and no class of Transformers" in printed
    assert f"with objective: mlm, or train one from it with init.from={checkpoint}" in printed
    assert not (tmp_path / "out").exists()
    assert main(["export", str(whole), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert re.search(r"\| pretrain \|.*\| next token \|", card)
    assert re.search(r"\| extension \|.*\| 30% \|", card)


def test_a_restart_between_the_phases(tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run"):
        if read_info(path).phase == "extension":
            path.unlink()
    assert_same_run(train(load_recipe(tiny, [*OVERRIDES, f"run_folder={tmp_path}/run"])), whole)


def test_the_second_phase_alone(tiny, whole):
    checkpoint = phase_end(whole, "pretrain")
    assert main(["train", str(tiny), *OVERRIDES, "phase=extension", f"init.from={checkpoint}"]) == 0
    alone, expected = (steps_of(run, "extension")[0] for run in (whole.with_name("run-extension"), whole))
    assert alone["batch_crc32"] == expected["batch_crc32"]
    assert alone["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_the_objective_cannot_change_within_a_phase(tiny, tmp_path):
    short = [*OVERRIDES, f"run_folder={tmp_path}/run", "phases.extension=null", "phases.pretrain.tokens=6K"]
    train(load_recipe(tiny, short))
    with pytest.raises(
        ValueError, match=r"objective, mask rate or seed \(fingerprint \w+\) than the recipe has"
    ):
        train(load_recipe(tiny, [*short, "phases.pretrain.tokens=8K", "phases.pretrain.objective=mlm"]))


def test_progress_names_the_objective_and_plan_shows_its_steps(tiny, tmp_path, capsys):
    short = ["phases.extension=null", "phases.pretrain.tokens=4K", "phases.pretrain.warmup_tokens=1K"]
    recipe = [str(tiny), *OVERRIDES, *short, f"run_folder={tmp_path}/run"]
    assert main(["train", *recipe, "training.progress_bar=true"]) == 0
    printed = capsys.readouterr().err
    assert "pretrain, next token: step 1/2, " in printed
    assert re.search(r"held out after 4,096 tokens \(pretrain, next token\): loss \(accuracy\) web", printed)
    assert main(["plan", *recipe, "--step", "2"]) == 0
    assert "step 2 of 2, phase pretrain: 8 rows" in capsys.readouterr().out
