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
from modernbert_train.sweep.command import check_inputs
from modernbert_train.sweep.definition import read_sweep
from modernbert_train.sweep.state import RunState, check_run_folders, read_state, read_tokens
from tests.helpers.spawned import held
from tests.helpers.stores import edit_manifest
from tests.helpers.sweeps import make_sweep, pretend_finished
from tests.helpers.weights import make_info

CELLS = "cells: {gated: [], plain: [model.mlp=gelu]}"


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_sweep_with_a_failed_cell_and_once_more(tmp_path, capsys, caplog):
    """The other runs continue; the same command starts the failed run again, and no finished one."""
    caplog.set_level("INFO")
    path = make_sweep(tmp_path, "cells: {gated: [], broken: [model.mlp=gelu]}", seeds="[1]")
    finished, broken = (run.recipe.run_folder for run in read_sweep(path).runs)
    with held(Path(broken)):
        assert main(["sweep", str(path), "--parallel", "2"]) == 1
    assert "FAILED: broken/seed-1 with exit code 2" in caplog.text
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
    for name in (
        "runs.csv",
        "results.csv",
        "results.html",
        "results.md",
        "results.svg",
        "results-numbers.json",
    ):
        assert f"{tmp_path}/runs/{name}" in out
        assert (tmp_path / "runs" / name).is_file()
    assert (tmp_path / "runs/results.md").read_text() in out
    steps = [json.loads(line) for line in lines_of(Path(broken) / "metrics.jsonl")]
    assert [line["step"] for line in steps] == [1, 2, 2]
    assert main(["sweep", str(path), "--report"]) == 0


def test_missing_initial_weights_are_found_before_anything_runs(tmp_path, capsys):
    path = make_sweep(tmp_path, "cells: {fresh: [], further: [init.from=nowhere]}")
    assert main(["sweep", str(path)]) == 2
    assert "cell further: init.from: nowhere: no such run folder" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    for run in read_sweep(path).runs:
        folder = Path(run.recipe.run_folder) / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "step-00000001.pt").touch()
    check_inputs(read_sweep(path))  # started runs no longer need them


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


def launcher(folder: Path, body: str) -> str:
    """A value of --launcher: a shell script, whose arguments are those of the run."""
    script = folder / "launcher.sh"
    script.write_text(body)
    return f"sh {script}"


def test_a_launcher_gets_the_arguments_of_every_run(tmp_path, caplog, capsys):
    """A run is finished when it has trained all of its steps, whatever its launcher returns."""
    path = make_sweep(tmp_path, CELLS)
    script = launcher(
        tmp_path, f'echo "$@" >> {tmp_path}/started\ncase "$*" in *name=little.plain.seed-2*) exit 3;; esac\n'
    )
    assert main(["sweep", str(path), "optimizer.eps=1e-7", "--launcher", script]) == 1
    runs = read_sweep(path, ["optimizer.eps=1e-7"]).runs
    for line, run in zip(lines_of(tmp_path / "started"), runs, strict=True):
        words = line.split()
        assert words[:2] == ["-m", "modernbert_train"]
        options = parse(words[2:])
        assert load_recipe(options.recipe, options.overrides) == run.recipe
    failed = [record.message for record in caplog.records if record.message.startswith("FAILED")][:4]
    early = "exit code 0 before its end; a launcher must wait for its job, unlike sbatch"
    assert failed == [
        *(f"FAILED: {run.name} with {early}" for run in runs[:3]),
        "FAILED: plain/seed-2 with exit code 3",
    ]
    assert capsys.readouterr().out == ""


def test_the_listed_commands_have_the_launcher(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    assert main(["sweep", str(path), "--list", "--launcher", "sh -c 'a b'"]) == 0
    (first, *_) = capsys.readouterr().out.splitlines()
    assert shlex.split(first)[:6] == ["sh", "-c", "a b", "-m", "modernbert_train", "train"]


@pytest.mark.parametrize("option", ["--dry-run", "--list"])
def test_no_large_library_is_imported_to_look_at_a_sweep(tmp_path, option):
    path = make_sweep(tmp_path, CELLS)
    large = "{'torch', 'streaming', 'composer', 'transformers', 'matplotlib'}"
    code = f"import sys; from modernbert_train.cli import main; assert main({['sweep', str(path), option]}) == 0; "
    code += f"print(sorted({large} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_a_signal_is_passed_on_and_nothing_more_is_started(tmp_path):
    path = make_sweep(tmp_path, CELLS)
    events = tmp_path / "events"
    script = f"trap 'echo saved >> {events}; exit 138' TERM; echo started >> {events}; while true; do sleep 0.1; done"
    command = [sys.executable, "-m", "modernbert_train", "sweep", str(path), "--parallel", "2"]
    sweep = subprocess.Popen(
        [*command, "--launcher", launcher(tmp_path, script)], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not events.exists() or len(lines_of(events)) < 2:
            assert time.monotonic() < deadline
            assert sweep.poll() is None
            time.sleep(0.1)
        sweep.send_signal(signal.SIGTERM)
        _, messages = sweep.communicate(timeout=60)
    finally:
        sweep.kill()
    assert sweep.returncode == REQUEUE_EXIT_CODE, messages
    assert "stopped by SIGTERM; run the same command again to resume" in messages
    assert sorted(lines_of(events)) == ["saved", "saved", "started", "started"]


@pytest.mark.skipif(sys.platform != "linux", reason="the runs of a killed sweep end with it on Linux only")
def test_runs_end_with_a_killed_sweep(tmp_path):
    path = make_sweep(tmp_path, CELLS)
    script = launcher(tmp_path, f"echo $$ > {tmp_path}/pid; while true; do sleep 0.1; done")
    command = [sys.executable, "-m", "modernbert_train", "sweep", str(path), "--launcher", script]
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

    def refused(*options: str) -> str:
        assert main(["sweep", str(path), *options]) == 2
        return capsys.readouterr().err

    assert "--parallel is 0, must be at least 1" in refused("--parallel", "0")
    no_program = refused("--launcher", "no-such-program -n 8")
    assert "--launcher is 'no-such-program -n 8': there is no program no-such-program; write" in no_program
    assert "--launcher is '': it is empty" in refused("--launcher", "")
    nowhere = f"data.tokenizer={tmp_path}/nowhere"
    assert f"cell gated: tokenizer: {tmp_path}/nowhere does not exist" in refused(nowhere)
    assert "cell gated: model.vocab_size is 64, too small" in refused("model.vocab_size=64")
    assert not (tmp_path / "runs").exists()


def test_sources_without_held_out_text_are_refused(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    for source in ("web", "code"):
        edit_manifest(
            tmp_path / "store",
            lambda manifest, name=source: manifest["sources"][name]["splits"].pop("valid", None),
        )
    assert main(["sweep", str(path)]) == 2
    assert (
        "cell gated: no source has held-out text; tokenize with --valid-fraction above 0"
        in capsys.readouterr().err
    )


def test_a_run_started_with_other_settings_is_refused(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    sweep = read_sweep(path)
    pretend_finished(sweep.runs[0], {"web": 4.0})
    recipe = Path(sweep.runs[0].recipe.run_folder) / "recipe.yaml"
    recipe.write_text(changed(sweep.runs[0].recipe, "training.compile=true", "data.num_workers=0"))
    check_run_folders(sweep)  # neither influences training
    recipe.write_text(changed(sweep.runs[0].recipe, "optimizer.eps=1e-7"))
    with pytest.raises(
        ValueError, match=r"cell gated: .*/gated/seed-1 was started with other settings: optimizer.eps"
    ):
        check_run_folders(sweep)
    assert main(["sweep", str(path), "--list"]) == 2
    assert (
        "was 1e-07, is 1e-06; restore them, rename the cell, or choose another --folder"
        in capsys.readouterr().err
    )
    assert main(["sweep", str(path), "--report"]) == 0  # the report still works
    expected = "The sweep file has changed: gated ran with other values of optimizer.eps."
    assert expected in (tmp_path / "runs/results.md").read_text()


def changed(recipe: Recipe, *overrides: str) -> str:
    """The YAML text of a recipe with some fields changed."""
    file = Path(recipe.run_folder) / "changed.yaml"
    file.write_text(dump_recipe(recipe))
    return dump_recipe(load_recipe(file, list(overrides)))


def test_how_far_a_run_is(tmp_path):
    sweep = read_sweep(make_sweep(tmp_path, CELLS))
    first, second, *_ = sweep.runs
    assert (read_state(first), read_tokens(first)) == (RunState(0, 2), 0)
    pretend_finished(first, {"web": 4.0})
    assert (read_state(first), read_tokens(first)) == (RunState(2, 2), 4_096)
    assert read_state(first).is_finished
    with (Path(first.recipe.run_folder) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tok')  # an unfinished line
    assert read_tokens(first) == 4_096
    pretend_finished(second, {"web": 4.0})
    info = Path(second.recipe.run_folder) / "checkpoints/step-00000002.json"
    info.write_text(make_info(step=1).to_json())
    assert read_state(second) == RunState(1, 2)
    assert not read_state(second).is_finished
    info.write_text("{")
    assert read_state(second) == RunState(0, 2)


def test_the_overview(tmp_path, capsys):
    path = make_sweep(tmp_path, CELLS)
    pretend_finished(read_sweep(path).runs[0], {"web": 4.0})
    assert main(["sweep", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"little: {tmp_path}/tiny.yaml in 2 cells"
    assert lines[4].split() == ["gated", "90,752", "4.096K", "2", "1,", "2", "1", "of", "2"]
    assert "4 runs, 16.38K tokens, at most" in lines[7]
    assert lines[8] == "remaining  3 runs, 12.29K tokens"
    assert lines[9].strip() == "0:00 hours one by one, at the measured 1,111 tokens/s"
