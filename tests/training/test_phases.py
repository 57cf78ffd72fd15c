"""Changes from phase to phase, and runs of a single phase."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import ModelConfig, load_recipe
from modernbert_train.schedule import build_schedule
from modernbert_train.training.callbacks.checkpoints import checkpoint_info
from modernbert_train.training.restart import check_clock
from modernbert_train.training.train import train


@pytest.fixture(scope="module")
def whole(tiny):
    return train(load_recipe(tiny, ["training.save_every_tokens=2K", "training.keep_checkpoints=100"]))


def steps_of(run, phase):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line and line["phase"] == phase]


def phase_end(run, phase):
    """Return the checkpoint at the end of a phase."""
    infos = {path: read_info(path) for path in list_checkpoints(run)}
    (path,) = [path for path, info in infos.items() if info.keep and info.phase == phase]
    return path


def optimizer_settings(checkpoint):
    """Return the weight decay of the groups and the peak learning rate that it refers to."""
    (optimizer,) = torch.load(checkpoint, weights_only=False)["state"]["optimizers"].values()
    return [(group["weight_decay"], group["max_lr"]) for group in optimizer["param_groups"]]


def test_weight_decay_is_that_of_the_phase_from_its_first_step_on(whole):
    assert len(list_checkpoints(whole)) > 12  # one at every step
    for path in list_checkpoints(whole):
        expected = 1e-3 if read_info(path).phase == "extension" else 1e-5
        assert optimizer_settings(path) == [(expected, 5e-3), (0.0, 5e-3)]


def test_weight_decay_after_a_restart_in_the_middle(tiny, tmp_path, whole):
    """The weight decay comes from the recipe, not from the checkpoint."""
    first = [f"run_folder={tmp_path}/run", "phases.extension.tokens=8K", "phases.extension.decay_tokens=0"]
    train(load_recipe(tiny, [*first, "phases.extension.weight_decay=0.5"]))
    run = train(
        load_recipe(tiny, [*first, "phases.extension.tokens=16K", "phases.extension.weight_decay=0.25"])
    )
    first, last = phase_end(run, "pretrain"), list_checkpoints(run)[-1]
    assert [optimizer_settings(path)[0][0] for path in (first, last)] == [1e-5, 0.25]


def test_a_phase_alone_reads_what_it_reads_in_the_whole_run(tiny, whole):
    checkpoint = phase_end(whole, "pretrain")
    assert read_info(checkpoint).phase_step == len(steps_of(whole, "pretrain"))
    assert main(["train", str(tiny), "phase=extension", f"init.from={checkpoint}"]) == 0
    alone = whole.with_name("run-extension")
    steps, in_the_whole = steps_of(alone, "extension"), steps_of(whole, "extension")
    for name in ("batch_crc32", "lr", "batch_tokens", "mask_rate", "context_tokens", "global_rope_theta"):
        assert [line[name] for line in steps] == [line[name] for line in in_the_whole]
    assert steps[0]["loss"] == pytest.approx(in_the_whole[0]["loss"], abs=0.05)  # dropout differs
    assert optimizer_settings(phase_end(alone, "extension")) == [(1e-3, 5e-3), (0.0, 5e-3)]


def test_a_phase_alone_and_the_whole_run_cannot_share_a_folder(tiny, whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run-extension")
    checkpoint = list_checkpoints(run)[-1]
    arguments = [
        "train",
        str(tiny),
        "phase=extension",
        f"init.from={checkpoint}",
        f"run_folder={tmp_path}/run",
    ]
    assert main(arguments) == 2
    expected = (
        rf"run_folder is {run}, which holds a run of all phases, not of the phase extension alone; choose "
    )
    assert re.search(expected, capsys.readouterr().err)


def test_the_dry_run_of_a_phase_alone(tiny, tmp_path, capsys):
    changed = ["phase=extension", "init.from=runs/tiny", f"run_folder={tmp_path}"]
    assert main(["train", str(tiny), *changed, "--dry-run"]) == 2
    text = capsys.readouterr().out
    assert text.startswith("not ready to train:\n  - init.from: runs/tiny: ")
    assert "\n\ntiny, phase extension alone: 16.38K tokens in 8 steps\n" in text
    assert re.search(r"start +weights of runs/tiny", text)


@pytest.mark.parametrize(
    ("step", "changed", "message"),
    [
        (  # the same number of tokens, but in another phase
            18,
            ["phases.pretrain.tokens=34K"],
            "phases: step 18 is number 18 of pretrain by the recipe, but run/18.pt was made after number 4 of "
            "extension: .* of phases that have begun were changed; restore them, or start a new run .* init.from",
        ),
        (13, ["phases.pretrain.tokens=20K"], "step 13 is number 1 of extension .* number 13 of pretrain"),
        (
            13,
            ["phases.pretrain.batch_ramp=null"],
            "13 steps are 26,624 tokens by .* made after 22,528: names",
        ),
        (
            13,
            ["phases.pretrain.tokens=34K"],
            None,
        ),  # changes only the future of the phase that is in progress or has just ended
        (18, ["phases.extension.tokens=40K", "phases.extension.decay_tokens=8K"], None),
    ],
)
def test_only_the_future_of_a_run_can_change(tiny, step, changed, message):
    before, after = build_schedule(load_recipe(tiny)), build_schedule(load_recipe(tiny, changed))
    checkpoint = Path(f"run/{step}.pt"), checkpoint_info(before, step, ModelConfig(), "")
    if message is None:
        check_clock(after, *checkpoint)
    else:
        with pytest.raises(ValueError, match=message):
            check_clock(after, *checkpoint)
