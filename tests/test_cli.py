"""The command line itself; what the commands do is tested with the packages that do it."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modernbert_train.cli import commands, main
from modernbert_train.cli.parser import build_parser

REPOSITORY = Path(__file__).parents[1]
COMMANDS = ("train", "sweep", "report", "plan", "evaluate", "export", "import", "average", "doctor")


def help_of(*arguments: str) -> str:
    """Standard output of `modernbert ... --help`, which must not have imported torch."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
        f"from modernbert_train.cli import main; main({[*arguments, '--help']})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    return done.stdout


def test_help_lists_every_command_with_an_example():
    text = help_of()
    listed, examples = text.split("\nexamples:\n")
    assert "\nexit codes:\n  0 " in examples
    for command in COMMANDS:
        assert re.search(rf"^    {command} +\w", listed, re.MULTILINE)
        assert f"  modernbert {command} " in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples_that_it_accepts(command):
    examples = help_of(command).split("\nexamples:\n")[1].splitlines()
    own = [
        line.split("|")[0].split(">")[0].split(f" {command}", 1)[1]
        for line in examples
        if f" {command}" in line
    ]
    assert own
    assert len(own) == len(examples)
    for arguments in own:
        words = re.findall(r'"[^"]*"|\S+', arguments)
        options = build_parser().parse_args([command, *(word.strip('"') for word in words)])
        assert callable(options.run)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"modernbert \d+\.\d+.*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        ([], "required: COMMAND"),
        (["train"], "required: recipe"),
        (["train", "recipe.yaml", "--dryrun"], "unrecognized arguments: --dryrun"),
        (
            ["train", "recipe.yaml", "--dry-run", "--tokens-per-second", "0"],
            "0 is not allowed: must be a number",
        ),
    ],
)
def test_what_is_no_command_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_each_problem_is_a_line(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nsede: 1\ntrainig: {}\n")
    assert main(["train", str(recipe)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert any("sede" in line for line in lines)
    assert any("trainig" in line for line in lines)


def test_every_rank_but_the_first_names_itself(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "rank 1: error: nowhere.yaml: there is no such file\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (ValueError("one\ntwo"), 2, "error: one\nerror: two\n"),
        (ValueError(), 2, "error: ValueError()\n"),
        (FloatingPointError("loss is nan"), 1, "error: loss is nan\n"),
    ],
)
def test_exit_status(monkeypatch, capsys, error, status, message):
    monkeypatch.setattr(commands, "run_report", raising(error))
    assert main(["report", "runs/x"]) == status
    assert capsys.readouterr().err == message


def test_errors_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(commands, "run_report", raising(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        main(["report", "runs/x"])


def test_a_rank_that_lost_another_points_to_its_log(monkeypatch, capsys):
    build = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "modernbert_train.training.train", build)
    monkeypatch.setattr("modernbert_train.checkpoints.recipes.load_run_recipe", lambda path, overrides: path)
    build.train = raising(RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1"))
    assert main(["train", "recipe.yaml"]) == 1
    assert "error: another rank has ended" in capsys.readouterr().err
    build.train = raising(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["train", "recipe.yaml"])


def raising(error: BaseException, where: str = commands.__file__):
    """A function that raises `error`, as code of the file `where` would."""
    scope = {"error": error}
    exec(compile("def function(*_):\n    raise error", where, "exec"), scope)
    return scope["function"]


def test_as_a_module():
    command = [sys.executable, "-m", "modernbert_train", "train", "nowhere.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*nowhere\.yaml.*\n", done.stderr)


def test_a_defect_keeps_its_traceback(monkeypatch):
    """Only errors that this package raises are a line for the user; what a library raises is for whoever mends it."""
    monkeypatch.setattr(commands, "run_report", raising(ValueError("of torch"), where=pytest.__file__))
    with pytest.raises(ValueError, match="of torch"):
        main(["report", "runs/some"])
