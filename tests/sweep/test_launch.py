"""Sweeps that run, as a user starts them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modernbert_train.cli import main
from modernbert_train.cli.parser import parse
from modernbert_train.common.processes import REQUEUE_EXIT_CODE
from modernbert_train.config import Recipe, dump_recipe, load_recipe
from modernbert_train.sweep import launch
from modernbert_train.sweep.command import check_inputs
from modernbert_train.sweep.definition import read_sweep
from modernbert_train.sweep.state import check_run_folders, read_state, read_tokens
from tests.helpers.spawned import held
from tests.helpers.sweeps import make_sweep, pretend_finished
from tests.helpers.weights import make_info

CELLS = "cells: {gated: [], plain: [model.mlp=gelu]}"


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_sweep_with_a_failed_cell_and_once_more(tmp_path, capsys, caplog):
    """The others go on; the same command runs the failed one again and leaves the finished ones alone."""
    caplog.set_level("INFO")
    path = make_sweep(tmp_path, "cells: {gated: [], broken: [model.mlp=gelu]}", seeds="[1]")
    finished, broken = (run.recipe.run_folder for run in read_sweep(path).runs)
    with held(Path(broken)):
        assert main(["sweep", str(path), "--parallel", "2"]) == 1
    assert "FAILED: broken/seed-1 with exit status 2" in caplog.text
    assert f"error: run_folder is {broken}, in which another run is active" in caplog.text  # its last words
    assert "finished gated/seed-1" in caplog.text
    assert "So far 1 of 2 runs are finished." in capsys.readouterr().out
    before = (Path(finished) / "log.txt").read_text()
    caplog.clear()
    assert main(["sweep", str(path)]) == 0
    assert "started broken/seed-1" in caplog.text
    assert "gated" not in caplog.text
    assert (Path(finished) / "log.txt").read_text() == before
    out = capsys.readouterr().out
    assert "So far" not in out
    for name in ("runs.csv", "results.csv", "results.md", "results.png"):
        assert f"{tmp_path}/runs/{name}" in out
        assert (tmp_path / "runs" / name).is_file()
    assert (tmp_path / "runs/results.md").read_text() in out
    steps = [json.loads(line) for line in lines_of(Path(broken) / "metrics.jsonl")]
    assert [line["step"] for line in steps] == [1, 2, 2]
    assert main(["sweep", str(path), "--report"]) == 0


def test_weights_that_are_not_there_are_found_before_anything_runs(tmp_path, capsys):
    path = make_sweep(tmp_path, "cells: {fresh: [], further: [init.from=nowhere]}")
    assert main(["sweep", str(path)]) == 2
    assert "cell further: init.from: nowhere: no such run folder" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    for run in read_sweep(path).runs:
        folder = Path(run.recipe.run_folder) / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "step-00000001.pt").touch()
    check_inputs(read_sweep(path))  # what has begun needs them no more


def test_listed_commands_make_the_same_runs(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    assert main(["sweep", str(path), "optimizer.eps=1e-7", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = read_sweep(path, ["optimizer.eps=1e-7"]).runs
    assert len(lines) == len(runs) == 4
    for line, run in zip(lines, runs, strict=True):
        words = shlex.split(line)
        assert words[:3] == [sys.executable, "-m", "modernbert_train"]
        options = parse(words[3:])
        assert load_recipe(options.recipe, options.overrides) == run.recipe


def test_another_launcher(tmp_path, caplog, capsys):
    """It may end before its run has begun, as sbatch does: then the run is not failed but handed over."""
    caplog.set_level("INFO")
    path = make_sweep(tmp_path, CELLS)
    template = f"echo {{name}} {{quoted_command}} >> {tmp_path}/submitted"
    assert main(["sweep", str(path), "--launch", template]) == 0
    runs = read_sweep(path).runs
    submitted = [shlex.split(line, posix=False) for line in lines_of(tmp_path / "submitted")]
    assert [words[0] for words in submitted] == [run.recipe.name for run in runs]
    assert "handed over gated/seed-1" in caplog.text
    assert (
        f"4 runs are with their launcher; when they are done: modernbert sweep {path} --report" in caplog.text
    )
    caplog.clear()
    assert main(["sweep", str(path), "--launch", "test {name} != little.plain.seed-2 # {arguments}"]) == 1
    failed = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert {message.split()[1] for message in failed if message.startswith("FAILED")} == {"plain/seed-2"}
    assert capsys.readouterr().out == ""


def test_a_command_in_a_template_is_what_is_listed(tmp_path):
    path = make_sweep(tmp_path, CELLS)
    sweep = read_sweep(path)
    run = sweep.runs[0]
    command = launch.command_of(sweep, run)
    filled = launch.fill_template("srun {command}", sweep, run)
    assert filled == f"srun {command}"
    quoted = launch.fill_template("sbatch --wrap={quoted_command}", sweep, run)
    assert shlex.split(quoted) == ["sbatch", f"--wrap={command}"]
    composer = launch.fill_template("composer -n 8 -m modernbert_train {arguments}", sweep, run)
    assert shlex.split(composer)[5:] == shlex.split(command)[3:]


def test_threads_and_devices_are_shared_out(tmp_path, monkeypatch):
    environments = []

    class Started:
        pid, returncode = 0, 0

        def __init__(self, *_, env, **__):
            environments.append(env)

        def poll(self):
            return 0

    monkeypatch.setattr(launch.subprocess, "Popen", Started)
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(launch.torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    sweep = read_sweep(make_sweep(tmp_path, CELLS))
    assert launch.launch(sweep, 2, None, lambda outcome: None) == 0
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["3", "5", "3", "5"]
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {"4"}
    environments.clear()
    launch.launch(sweep, 1, None, lambda outcome: None)
    assert {environment["CUDA_VISIBLE_DEVICES"] for environment in environments} == {"3,5"}
    assert "OMP_NUM_THREADS" not in environments[0]


def test_a_signal_is_passed_on_and_nothing_more_is_started(tmp_path):
    path = make_sweep(tmp_path, CELLS)
    template = f"trap 'echo saved >> {tmp_path}/told; exit 138' TERM; echo begun >> {tmp_path}/told; "
    template += "while true; do sleep 0.1; done; : {command}"
    command = [sys.executable, "-m", "modernbert_train", "sweep", str(path), "--parallel", "2"]
    sweep = subprocess.Popen([*command, "--launch", template], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "told").exists() or len(lines_of(tmp_path / "told")) < 2:
            assert time.monotonic() < deadline
            assert sweep.poll() is None
            time.sleep(0.1)
        sweep.send_signal(signal.SIGTERM)
        _, messages = sweep.communicate(timeout=60)
    finally:
        sweep.kill()
    assert sweep.returncode == REQUEUE_EXIT_CODE
    assert "ended by SIGTERM; the same command goes on" in messages
    assert sorted(lines_of(tmp_path / "told")) == ["begun", "begun", "saved", "saved"]


@pytest.mark.skipif(sys.platform != "linux", reason="the runs of a killed sweep end with it on Linux only")
def test_runs_end_with_a_killed_sweep(tmp_path):
    path = make_sweep(tmp_path, CELLS)
    template = f"echo $$ > {tmp_path}/pid; while true; do sleep 0.1; done; : {{command}}"
    command = [sys.executable, "-m", "modernbert_train", "sweep", str(path), "--launch", template]
    sweep = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run = int((tmp_path / "pid").read_text())
    sweep.kill()
    sweep.wait()
    while _is_alive(run):
        assert time.monotonic() < deadline, "the run has outlived its sweep"
        time.sleep(0.1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def test_what_is_refused_before_anything_runs(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)

    def told(*options: str) -> str:
        assert main(["sweep", str(path), *options]) == 2
        return capsys.readouterr().err

    assert "--parallel is 0: make it at least 1" in told("--parallel", "0")
    assert "--launch is 'srun': it has no place for the run; write {command}" in told("--launch", "srun")
    nowhere = f"data.tokenizer={tmp_path}/nowhere"
    assert f"cell gated: tokenizer: {tmp_path}/nowhere does not exist" in told(nowhere)
    assert "cell gated: model.vocab_size is 64, too small" in told("model.vocab_size=64")
    assert not (tmp_path / "runs").exists()


def test_sources_without_held_out_text_are_refused(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    file = tmp_path / "store/manifest.json"
    manifest = json.loads(file.read_text())
    for source in manifest["sources"].values():
        source["splits"].pop("valid", None) if "splits" in source else source.pop("valid", None)
    file.write_text(json.dumps(manifest))
    assert main(["sweep", str(path)]) == 2
    assert (
        "cell gated: no source has held-out text; tokenize with --valid-fraction above 0"
        in capsys.readouterr().err
    )


def test_a_run_begun_with_other_settings_is_not_taken_for_the_cell_s(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    sweep = read_sweep(path)
    pretend_finished(sweep.runs[0], {"web": 4.0})
    recipe = Path(sweep.runs[0].recipe.run_folder) / "recipe.yaml"
    recipe.write_text(changed(sweep.runs[0].recipe, "training.compile=true", "data.num_workers=0"))
    check_run_folders(sweep)  # neither changes what is learned
    recipe.write_text(changed(sweep.runs[0].recipe, "optimizer.eps=1e-7"))
    with pytest.raises(
        ValueError, match=r"cell gated: .*/gated/seed-1 was begun with other settings: optimizer.eps"
    ):
        check_run_folders(sweep)
    assert main(["sweep", str(path), "--list"]) == 2
    assert (
        "was 1e-07, is 1e-06; restore them, rename the cell, or choose another --folder"
        in capsys.readouterr().err
    )
    assert main(["sweep", str(path), "--report"]) == 0  # what it came to can still be read
    expected = "The sweep was changed since: gated ran with other values of optimizer.eps than it says now."
    assert expected in (tmp_path / "runs/results.md").read_text()


def changed(recipe: Recipe, *overrides: str) -> str:
    """The YAML text of a recipe with some fields changed."""
    file = Path(recipe.run_folder) / "changed.yaml"
    file.write_text(dump_recipe(recipe))
    return dump_recipe(load_recipe(file, list(overrides)))


def test_how_far_a_run_is(tmp_path):
    sweep = read_sweep(make_sweep(tmp_path, CELLS))
    first, second, *_ = sweep.runs
    assert (str(read_state(first)), read_tokens(first)) == ("to do", 0)
    pretend_finished(first, {"web": 4.0})
    assert (str(read_state(first)), read_tokens(first)) == ("finished", 4_096)
    with (Path(first.recipe.run_folder) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tok')  # it is writing just now
    assert read_tokens(first) == 4_096
    pretend_finished(second, {"web": 4.0})
    info = Path(second.recipe.run_folder) / "checkpoints/step-00000002.json"
    info.write_text(make_info(step=1).to_json())
    assert str(read_state(second)) == "step 1 of 2"
    info.write_text("{")
    assert str(read_state(second)) == "to do"


def test_the_overview(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    pretend_finished(read_sweep(path).runs[0], {"web": 4.0})
    assert main(["sweep", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"little: {tmp_path}/tiny.yaml in 2 cells"
    assert lines[4].split() == ["gated", "160,640", "4.096K", "2", "1,", "2", "1", "of", "2"]
    assert "4 runs, 16.38K tokens, at most" in lines[7]
    assert lines[8] == "still left 3 runs, 12.29K tokens"
    assert lines[9].strip() == "0:00 hours one after another, at the 1,111 tokens/s so far"
