"""What a run goes on from: its own checkpoint, whole, without running code, and never silently nothing."""

import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import torch

from modernbert_train.checkpoints.checkpoint import (
    checkpoint_path,
    finish_checkpoint,
    read_state,
    unfinished_path,
)
from modernbert_train.checkpoints.info import info_file, read_info
from modernbert_train.checkpoints.rewind import step_of
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.convert.model_card import model_card
from tests.helpers.weights import MaliciousCall

# The first phase alone, of 14 steps, with the checkpoints of steps 6, 10 and 14.
OPTIONS = ["phases.extension=null", "training.ema_half_life_tokens=8K", "training.keep_checkpoints=9"]
EVIL = "posix.system"


@pytest.fixture(scope="module")
def trained(tiny):
    """A finished run of one phase."""
    assert main(["train", str(tiny), *OPTIONS]) == 0
    return tiny.parent / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, stopped after step 10."""
    run = shutil.copytree(trained, tmp_path / "copy")
    for path in (*list_checkpoints(run)[-1:], info_file(list_checkpoints(run)[-1])):
        path.unlink()
    return run


@pytest.fixture
def train(tiny, run, capsys):
    """Go on with the run in the copy; returns the exit code and what was printed."""

    def train(*options):
        status = main(["train", str(tiny), *OPTIONS, f"run_folder={run}", *options])
        return status, capsys.readouterr().err

    return train


def change_info(path, **fields):
    """Change the JSON file of a checkpoint."""
    info_file(path).write_text(replace(read_info(path), **fields).to_json())


def change_state(path, change):
    """Change the state in a checkpoint, as its JSON file then says."""
    content, info = torch.load(path, weights_only=False), read_info(path)
    change(content["state"])
    torch.save(content, unfinished_path(path))
    finish_checkpoint(path, info)


def steps(run):
    return [
        line["step"]
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "loss" in line
    ]


def test_a_run_goes_on_from_a_copy_of_its_folder(run, train, trained):
    assert train()[0] == 0
    assert steps(run) == list(range(1, 15))
    first, last = (read_state(list_checkpoints(folder)[-1]) for folder in (trained, run))
    for name, weight in first["model"].items():
        assert torch.equal(weight, last["model"][name])
    assert {read_info(path).run for path in list_checkpoints(run)} == {
        read_info(list_checkpoints(trained)[0]).run
    }


@pytest.mark.parametrize(
    "command",
    [
        ["train"],
        ["train new", "init.from={run}"],
        ["average", "{run}", "{run}", "out"],
        ["average", "--ema", "{run}", "out"],
        ["export", "{run}", "out"],
        ["evaluate", "{run}"],
        ["rewind", "{run}", "--step", "10"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_checkpoint_runs_no_code(tiny, run, tmp_path, capsys, command):
    newest = list_checkpoints(run)[-1]
    change_state(newest, lambda state: state.update(zz=MaliciousCall(f"touch {tmp_path}/ran")))
    first, *rest = [part.format(run=run) for part in command]
    folder = {"train": run, "train new": tmp_path / "new"}.get(first)
    arguments = (
        [first, *rest] if folder is None else ["train", str(tiny), *OPTIONS, f"run_folder={folder}", *rest]
    )
    status, printed = main(arguments), capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    if first == "rewind":
        assert status == 0  # it moves files only
        return
    assert status == 2
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert (
        f"{newest}: refused: its pickle refers to {EVIL}, which could run code; use a file that training"
        in line
    )
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()
    torch.load(newest, weights_only=False)
    assert (tmp_path / "ran").exists(), "the test would not notice"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.num_hidden_layers=3"], r"model\.num_hidden_layers was 2, is 3: the checkpoints in .* another arch"),
        (["model.positions=learned"], r"model\.positions was rope, is learned: the checkpoints in"),
        (["optimizer.name=muon"], r"optimizer\.name was stableadamw, is muon: .* the old optimizer's state; restore"),
        (["seed=18"], r"data: .*10\.pt was made with other data, .* or seed \(fingerprint \w+\) than .* \w+\)"),
        (["phases.pretrain.mixture.code=3"], r"data: .*step-00000010\.pt was made with other data, mixture"),
        (["phases.pretrain.batch_ramp=null"], r"phases: 10 steps are 20,480 tokens by the recipe, but .* 16,384: "),
    ],
)  # fmt: skip
def test_the_checkpoint_says_what_fits_not_the_recipe_beside_it(run, train, options, message):
    (run / "recipe.yaml").unlink()
    status, printed = train(*options)
    assert status == 2
    assert re.search(f"^error: {message}", printed, re.MULTILINE)
    assert steps(run) == list(range(1, 15))


def test_checkpoints_of_another_run(run, train, trained):
    """The newest is another's, and further than the recipe goes."""
    other = list_checkpoints(trained)[-1]
    for file in (other, info_file(other)):
        shutil.copy(file, run / "checkpoints")
    copied = checkpoint_path(run, 14)
    change_info(copied, run="another")
    own = read_info(list_checkpoints(run)[0]).run
    message = f"{copied} is a checkpoint of the run another, and {run} is of the run {own}: move what was copied here"
    status, printed = train("phases.pretrain.tokens=18K")
    assert (status, message in printed) == (2, True)
    (run / "provenance.json").unlink()
    assert f"{copied} is a checkpoint of the run another, and {list_checkpoints(run)[0]} is" in train()[1]


def test_a_run_that_has_come_further_than_the_recipe(run, train, caplog):
    for path in list_checkpoints(run):
        change_info(path, run=None)  # as older versions wrote them
    status, printed = train("phases.pretrain.tokens=14K")
    assert status == 2
    assert re.search(
        r"10\.pt was made after step 10, but the recipe ends after step 9: restore the tokens of its phases, "
        rf"go back with `modernbert rewind {run} --step 6`, or name another run_folder",
        printed,
    )
    with caplog.at_level(logging.INFO):
        assert train("phases.pretrain.tokens=8K")[0] == 0
    assert f"{run} is finished: 6 steps, 8,192 tokens" in caplog.text
    assert train("phases.pretrain.tokens=8K", "seed=18")[0] == 2, "the last step of another recipe"


def spoil(*path, value):
    """Return a function that replaces what a path leads to in a state."""

    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


MOMENTS = ("optimizers", "StableAdamW", "state")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["model"].pop("model.decoder.bias"), r"decoder\.bias is missing in it, \[256\] by the "),
        (spoil("model", "model.decoder.bias", value=torch.zeros(7)), r"decoder\.bias is \[7\] in it, \[256\] by the"),
        (spoil("model", "model.x", value=torch.zeros(7)), r"x is \[7\] in it, missing by the recipe; restore the orig"),
        (spoil("model", value=[]), "holds something else in place of weights; use a file that training wrote"),
        (lambda state: state.pop("model"), "holds no state of a model, as a checkpoint does"),
        (lambda state: state.pop("optimizers"), r"optimizer\.name was none, is stableadamw"),
        (spoil("optimizers", value={"Other": {}}), r"optimizer\.name was 'Other', is stableadamw"),
        (spoil("optimizers", "StableAdamW", value=3), "its optimizer's state does not fit .* nor 16 more of it"),
        (spoil(*MOMENTS, "model.decoder.bias", value={"exp_avg": torch.zeros(7)}), r"does not fit 'model\.decoder"),
        (spoil("timestamp", "Timestamp", "batch", value=9), "JSON file says step 10, its clock 9 and its position in "),
        (spoil("dataset_state", value=None), "says step 10, its clock 10 and its position in the data None; restore"),
        (spoil("dataset_state", "train", "positions", 2, value=(0, -1)), "it holds no position of every stream; res"),
        (spoil("dataset_state", "train", "source_tokens", value={"web": "x"}), "it holds no number of tokens of ev"),
        (spoil("callbacks", "Throughput", value={"seconds": 1}), r"no run can resume from it \('wait_seconds'\); res"),
        (spoil("timestamp", "Timestamp", "token", value="x"), r"no run can resume from it \(.*\); restore the ori"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(run, train, change, message):
    change_state(list_checkpoints(run)[-1], change)
    status, printed = train()
    assert status == 2
    assert re.search(f"^error: .*{message}", printed, re.MULTILINE)
    assert "Traceback" not in printed


def test_a_file_that_its_json_calls_whole_but_torch_cannot_read(run, train):
    newest = list_checkpoints(run)[-1]
    info = read_info(newest)
    unfinished_path(newest).write_bytes(b"PK" + bytes(99))
    finish_checkpoint(newest, info)
    status, printed = train()
    assert (status, printed.count("error: ")) == (2, 1)
    assert f"error: {newest}: refused: its pickle cannot be read as tensors" in printed


def lose(run, what):
    if what == "folder":
        shutil.rmtree(run / "checkpoints")
    for path in (run / "checkpoints").glob("*.pt" if what == "only markers left" else "*"):
        path.unlink()


@pytest.mark.parametrize("what", ["folder", "content", "only markers left"])
def test_lost_checkpoints_are_not_a_new_run(run, train, what):
    lose(run, what)
    before = (run / "metrics.jsonl").read_bytes()
    message = (
        f"error: {run}/checkpoints: there is no checkpoint in it, but positions.jsonl says that the run has saved one "
        "after step 14; bring the checkpoints back (is their disk mounted?), or train again from the first step with "
        "--restart-from-scratch, which keeps the old records in a folder of their own\n"
    )
    assert train() == (2, message)
    (run / "positions.jsonl").unlink()
    assert "metrics.jsonl has step 14, and one was due after step 6; bring" in train()[1]
    assert (run / "metrics.jsonl").read_bytes() == before
    assert train("--restart-from-scratch")[0] == 0
    assert (run / "before-restart/metrics.jsonl").read_bytes() == before
    assert steps(run) == list(range(1, 15))
    assert len({read_info(path).run for path in list_checkpoints(run)}) == 1


def test_damaged_checkpoints_are_kept_by_a_restart_from_scratch(run, train):
    for path in list_checkpoints(run):
        path.write_bytes(b"damaged")
    assert "start again with another run_folder or with --restart-from-scratch" in train()[1]
    assert train("--restart-from-scratch")[0] == 0
    assert [step_of(path) for path in list_checkpoints(run / "before-restart")] == [6, 10]
    assert [step_of(path) for path in list_checkpoints(run)] == [6, 10, 14]


def test_restart_from_scratch_resumes_a_run_that_has_a_checkpoint(run, train, caplog):
    with caplog.at_level(logging.INFO):
        assert train("--restart-from-scratch")[0] == 0
    assert f"resuming from {checkpoint_path(run, 10)}" in caplog.text
    assert not (run / "before-restart").exists()


@pytest.mark.parametrize("during_the_save", [False, True])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(run, train, caplog, during_the_save):
    first_lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)[:6]
    (run / "metrics.jsonl").write_text("".join(first_lines))
    positions = (run / "positions.jsonl").read_text().splitlines(keepends=True)[:during_the_save]
    (run / "positions.jsonl").write_text("".join(positions))
    shutil.rmtree(run / "checkpoints")
    if during_the_save:
        unfinished_path(checkpoint_path(run, 6)).write_bytes(b"half")
    assert train()[0] == 0
    assert f"its records were moved to {run}/before-restart" in caplog.text
    assert steps(run) == list(range(1, 15))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b'{"step": 1}\n\xff\xfe\n[1]\n{"step": "x"}\n{"step": 2}\n'),
        ("metrics.jsonl", b"\xff\n"),
        ("positions.jsonl", b'{"step": 1}\n3\n' + b"[" * 99_999 + b"\n"),
        ("provenance.json", b"[]"),
        ("recipe.yaml", b"\xff\xfe: {"),
        ("recipe.yaml", b""),
    ],
)
def test_damaged_records_are_set_aside_and_do_not_block_a_restart(run, train, caplog, name, content):
    (run / name).write_bytes(content)
    assert train()[0] == 0
    (line,) = [record.message for record in caplog.records if name in record.message]
    assert line.startswith(f"{run / name}: ")
    assert line.endswith(f"; it was renamed to {name}.damaged, and the run goes on without it")
    assert (run / f"{name}.damaged").read_bytes() == content
    assert steps(run)[-4:] == [11, 12, 13, 14]


@pytest.mark.parametrize("name", ["recipe.yaml", "evaluation.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"sha256": {}, "step": []}\n', b"[" * 99_999])
def test_damaged_records_do_not_block_an_export(run, caplog, name, content):
    (run / name).write_bytes(content)
    card = model_card("toy", read_info(list_checkpoints(run)[-1]), run)
    assert ("# toy\n" in card, "## Recipe" in card) == (name == "recipe.yaml", name != "recipe.yaml")
    lines = [record.message for record in caplog.records]
    assert all(
        line.startswith(f"{run / name} is damaged, so the model card lacks what it says (") for line in lines
    )
    # Unfinished last lines are normal, and evaluations of other weights are not shown.
    assert (
        lines
        or (name == "metrics.jsonl" and not content.endswith(b"\n"))
        or content == b'{"sha256": {}, "step": []}\n'
    )
