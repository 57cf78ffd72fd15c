"""Runs that skip steps and documents: all other steps keep their number, batch and place in the schedule."""

import json
import logging
import re
import shutil

import pytest

from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.training.train import train
from tests.helpers.spawned import launch

# 22 steps: 14 of the first phase, 8 of the second. Saved often, so that a run can be cut back to any step.
OFTEN = ["training.save_every_tokens=1K", "training.keep_checkpoints=100", "evaluation.every_tokens=8K"]


@pytest.fixture(scope="module")
def whole(tiny):
    """A run that skips nothing."""
    return train(load_recipe(tiny, OFTEN))


def lines(run, of="loss"):
    """Return step -> its line of metrics.jsonl."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record for record in records if of in record}


def cut_back(run, folder, step):
    """Copy a run as it was after a step."""
    shutil.copytree(run, folder)
    for path in list_checkpoints(folder):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    return folder


def same_schedule(run, whole, skipped):
    ours, theirs = lines(run), lines(whole)
    assert sorted(ours) == [step for step in theirs if step not in skipped]
    for step, line in ours.items():
        for name in ("tokens", "phase", "lr", "batch_tokens", "context_tokens", "batch_crc32"):
            assert line[name] == theirs[step][name], (step, name)
    return ours, theirs


def test_skipped_steps_leave_all_other_batches_unchanged(tiny, tmp_path, whole, caplog):
    caplog.set_level(logging.INFO)
    skipped = [1, 6, 7, 8, 15, 20, 21]
    steps = "data.skip.steps=[1, 6-8, 15, 20-21]"
    run = train(load_recipe(tiny, [steps, f"run_folder={tmp_path}/run", "evaluation.every_tokens=4K"]))
    ours, theirs = same_schedule(run, whole, skipped)
    assert ours[5]["loss"] != theirs[5]["loss"], "the weights have not moved in step 1"
    # Saved every 8K tokens, which steps 6, 10, 14, 18 and 22 reach; evaluated every 4K: 4, 6, 8, 10, ..., 20, 22.
    made = (json.loads(line)["step"] for line in (run / "positions.jsonl").read_text().splitlines())
    assert list(made) == [9, 10, 14, 18, 22]
    assert list(lines(run, "eval")) == [4, 9, 10, 12, 14, 16, 18, 22]
    assert read_info(list_checkpoints(run)[-1]).tokens == 40_960
    # Only the tokens of the skipped steps are missing from the counts.
    assert ours[22]["source_tokens"]["web"] < theirs[22]["source_tokens"]["web"]
    assert "skipped by data.skip.steps: 6-8" in caplog.text
    (launched,) = json.loads((run / "provenance.json").read_text())["launches"]
    assert launched["skipped"] == {"steps": ["1", "6-8", "15", "20-21"], "documents": []}


def test_steps_are_logged_at_regular_intervals(tiny, tmp_path):
    options = ["data.skip.steps=[4-5, 9]", f"run_folder={tmp_path}/run", "training.log_every_steps=5"]
    logged = lines(train(load_recipe(tiny, options)))
    assert list(logged) == [6, 10, 15, 20, 22]
    assert 0.88 < logged[6]["fill"] <= 1, "the rows of skipped steps count neither way"


@pytest.mark.parametrize("stop", [4, 5, 14])
def test_a_list_that_is_made_after_a_stop(tiny, tmp_path, whole, stop, caplog):
    """Stops before and within the newly skipped steps, and at the end of the phase before."""
    run = cut_back(whole, tmp_path / "run", stop)
    train(load_recipe(tiny, [*OFTEN, f"run_folder={run}", "data.skip.steps=[5-6, 15]"]))
    same_schedule(run, whole, {step for step in (5, 6, 15) if step > stop})
    assert "recipe changed since the last start: data.skip.steps was [], is ['5-6', '15']" in caplog.text


def test_two_processes_skip_together(tiny, tmp_path, whole):
    options = [*OFTEN, "data.skip.steps=[2-3, 15]", "data.skip.documents=[web:100-199]"]
    one = train(load_recipe(tiny, [*options, f"run_folder={tmp_path}/one"]))
    done = launch(2, "train", tiny, *options, f"run_folder={tmp_path}/two")
    assert done.returncode == 0, done.stdout[-3000:]
    two = lines(tmp_path / "two")
    assert sorted(two) == [step for step in range(1, 23) if step not in (2, 3, 15)]
    for step, line in lines(one).items():
        for name in ("tokens", "lr", "batch_crc32", "source_tokens"):
            assert two[step][name] == line[name], (step, name)
        assert two[step]["loss"] == pytest.approx(line["loss"], abs=0.02)  # each rank draws its own dropout
    positions = (tmp_path / "two/positions.jsonl").read_text()
    assert positions == (one / "positions.jsonl").read_text()


def test_tokens_of_the_sources_go_on_after_a_restart(tiny, tmp_path, whole):
    run = cut_back(whole, tmp_path / "run", 9)
    with (run / "positions.jsonl").open("a") as file:
        file.write('{"step": 23, "posi')  # cut off
    done = launch(2, "train", tiny, *OFTEN, f"run_folder={run}")
    assert done.returncode == 0, done.stdout[-3000:]
    ours, theirs = same_schedule(run, whole, ())
    assert [line["source_tokens"] for line in ours.values()] == [
        line["source_tokens"] for line in theirs.values()
    ]
    assert (run / "positions.jsonl").read_text() == (whole / "positions.jsonl").read_text()


def test_a_skipped_document_is_not_trained_on(tiny, tmp_path, whole):
    """Also if every document of a source is skipped: then the batches have no tokens of it."""
    options = ["data.skip.documents=[code:0-199]", f"run_folder={tmp_path}/run"]
    ours, theirs = lines(train(load_recipe(tiny, options))), lines(whole)
    assert ours[22]["source_tokens"] == {"web": theirs[22]["source_tokens"]["web"], "code": 0}
    fills = [sum(line["fill"] for line in steps.values()) / 22 for steps in (ours, theirs)]
    assert fills[0] < 0.75 < 0.9 < fills[1]
    assert ours[22]["loss"] == pytest.approx(theirs[22]["loss"], abs=0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.skip.steps=[14]", "data.skip.steps has 14, the last step of phase pretrain, .*; skip up to 13, or"),
        ("data.skip.steps=[23]", "data.skip.steps has 23, but the run has 22 steps; steps count from 1"),
        ("data.skip.documents=[web:400]", "data.skip.documents has 'web:400': web has 400 documents for training, .*"),
        ("data.skip.documents_file=gone.txt", "data.skip.documents_file is gone.txt, which cannot be read .*; name a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_mistakes(tiny, tmp_path, capsys, override, message, dry_run):
    status = main(["train", str(tiny), override, f"run_folder={tmp_path}/run", *dry_run])
    assert status == 2
    assert re.search(message, " ".join("".join(capsys.readouterr()).split()))
    assert not (tmp_path / "run").exists()
