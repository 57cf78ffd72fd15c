import json
from dataclasses import replace

import pytest

from modernbert_train.checkpoints.checkpoint import find_latest, save_weights
from modernbert_train.checkpoints.info import info_file, read_info
from modernbert_train.checkpoints.rewind import describe_way_back
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from tests.helpers.weights import make_info


@pytest.fixture
def run(tmp_path):
    """A run folder with the checkpoints of steps 4, 8 and 12 and lines up to step 13."""
    run = tmp_path / "run"
    for step in (4, 8, 12):
        path = save_weights(run, {}, make_info(step=step))
        info_file(path).write_text(replace(read_info(path), weights_only=False).to_json())
    lines = [json.dumps({"step": step, "loss": 5.0}) + "\n" for step in range(1, 14)]
    (run / "metrics.jsonl").write_text("".join(lines))
    (run / "positions.jsonl").write_text("".join(lines[3::4]))
    (run / "watch.jsonl").write_text("".join(lines[3::4]))
    (run / "wandb_id").write_text("abc")
    return run


def steps(file):
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_what_came_after_the_step_is_moved_aside(run, capsys):
    assert main(["rewind", str(run), "--step", "4"]) == 0
    aside = run / "after-step-00000004"
    assert capsys.readouterr().out == (
        f"{run} resumes after step 4; 2 later checkpoints and 9 lines of metrics were moved to {aside}\n"
    )
    assert find_latest(run).stem == "step-00000004"
    assert (steps(run / "watch.jsonl"), steps(aside / "watch.jsonl")) == ([4], [8, 12])
    assert [path.stem for path in list_checkpoints(aside)] == ["step-00000008", "step-00000012"]
    assert all(info_file(path).exists() for path in list_checkpoints(aside))
    assert (steps(run / "metrics.jsonl"), steps(aside / "metrics.jsonl")) == (
        [1, 2, 3, 4],
        list(range(5, 14)),
    )
    assert (steps(run / "positions.jsonl"), steps(aside / "positions.jsonl")) == ([4], [8, 12])
    assert not (run / "wandb_id").exists()
    assert (aside / "wandb_id").read_text() == "abc"
    assert not (run / "run.lock").exists()


def test_without_a_step_the_checkpoints_are_listed(run, capsys):
    before = sorted(run.rglob("*"))
    assert main(["rewind", str(run)]) == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["4", "8", "12"]
    assert sorted(run.rglob("*")) == before


def test_a_second_time(run, capsys):
    assert main(["rewind", str(run), "--step", "4"]) == 0
    assert main(["rewind", str(run), "--step", "4"]) == 0
    assert capsys.readouterr().out.endswith(f"{run} is at step 4 already\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5}\n')
    assert main(["rewind", str(run), "--step", "4"]) == 0
    assert steps(run / "after-step-00000004-2" / "metrics.jsonl") == [5]
    assert len(list_checkpoints(run / "after-step-00000004")) == 2


@pytest.mark.parametrize(
    ("folder", "step", "message"),
    [
        ("run", 5, "--step is 5, but .*run has no checkpoint of it; it has 4, 8, 12"),
        ("run", 8, "step-00000008.pt: damaged: 4 bytes where"),
        ("typo", 4, "typo: no such run folder"),
        (".", 4, r"no checkpoint in it; name the folder of a run that has saved one"),
    ],
)
def test_errors(run, capsys, folder, step, message):
    import re

    (run / "checkpoints" / "step-00000008.pt").write_bytes(b"torn")
    before = sorted(path.name for path in run.iterdir())
    assert main(["rewind", str(run.parent / folder), "--step", str(step)]) == 2
    assert re.search(f"^error: .*{message}", capsys.readouterr().err)
    assert sorted(path.name for path in run.iterdir()) == before


def test_the_way_back_after_a_divergence(run, tmp_path):
    assert describe_way_back(tmp_path) == "No checkpoint was saved yet."
    assert f"with `modernbert rewind {run} --step 8`" in describe_way_back(run)
    main(["rewind", str(run), "--step", "4"])
    assert describe_way_back(run) == "The run resumes after step 4, its only checkpoint."
