"""The command line itself; what the commands do is tested with the packages that do it."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modernbert_train.cli import commands, main
from modernbert_train.cli.parser import build_parser
from tests.helpers.little_recipe import YAML, write

REPOSITORY = Path(__file__).parents[1]
COMMANDS = (
    "train",
    "rewind",
    "sweep",
    "report",
    "plan",
    "evaluate",
    "probe",
    "export",
    "import",
    "average",
    "doctor",
)


def help_of(capsys, *arguments: str) -> str:
    """Standard output of `modernbert ... --help`."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_imports_neither_torch_nor_the_recipe_s_parser():
    code = (
        "import atexit, sys; atexit.register(lambda: print({'torch', 'numpy', 'omegaconf'} & {*sys.modules})); "
        "from modernbert_train.cli import main; main(['train', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nset()\n")


def test_help_lists_every_command_with_an_example(capsys):
    text = help_of(capsys)
    listed, examples = text.split("\nexamples:\n")
    assert "\nexit codes:\n  0 " in examples
    for command in COMMANDS:
        assert re.search(rf"^    {command} +\w", listed, re.MULTILINE)
        assert f"  modernbert {command} " in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples_that_it_accepts(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    examples = help_of(capsys, command).split("\nexamples:\n")[1].splitlines()
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
        ("trian", "there is no command 'trian'; did you mean train? (see `modernbert --help`)"),
        ("trian --dryrun", "there is no command 'trian'; did you mean train? (see `modernbert --help`)"),
        ("chat", "there is no command 'chat'; commands: recipe, train, "),
        ("train", "the following arguments are required: recipe (see `modernbert train --help`)"),
        (
            "train r.yaml --dryrun",
            "there is no option --dryrun; did you mean --dry-run? (see `modernbert train",
        ),
        ("train r.yaml --dryrun=1 x=1", "there is no option --dryrun; did you mean --dry-run?"),
        ("report runs/x --picture", "there is no option --picture (see `modernbert report --help`)"),
        ("rewind runs/x runs/y --step 1", "unexpected argument: runs/y"),
        ("train r.yaml --set seed=1", "fields of the recipe need no option: write seed=1, without --set"),
        ("train r.yaml -o seed=1 name=x", "fields of the recipe need no option: write seed=1, without -o"),
        ("train r.yaml --a.b 1", "fields of the recipe are written without dashes: a.b=1, not --a.b"),
        ("train r.yaml --training.compile true", "written without dashes: training.compile=true, not"),
        ("sweep s.yaml --training.compile=true", "written without dashes: training.compile=true, not"),
        (
            "train r.yaml x=1 --seed 18",
            "fields of the recipe are written without dashes: seed=18, not --seed",
        ),
        (
            "finetune m sst2 --epochs 2",
            "fields of the task are written without dashes: epochs=2, not --epochs",
        ),
        ("train r.yaml --seed", "fields of the recipe are written without dashes: seed=VALUE, not --seed"),
        ("train r.yaml seed = 1", "without spaces around `=`: write seed=1 (see"),
        ("train r.yaml a.b=3 seed= 1", "without spaces around `=`: write seed=1 (see"),
        ("train r.yaml --dry-run seed =1", "without spaces around `=`: write seed=1 (see"),
        ("train r.yaml --dry-run --tokens-per-second 0", "0 is not allowed: must be a number"),
    ],
)
def test_what_is_no_command_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 2  # as git does, so that a script with an empty variable fails
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: modernbert ")
    assert all(f"  modernbert {command} " in printed.out for command in COMMANDS)
    assert printed.err == ""


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_fits_a_narrow_terminal(monkeypatch, capsys, columns, command):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_of(capsys, *command)
    unbreakable = ("yamls/", "runs/", "The capital")  # paths and quoted text
    below_usage = text.split("\n\n", 1)[1].splitlines()
    long = [line for line in below_usage if len(line) > columns]
    assert all(len(line.split()) <= 3 and any(part in line for part in unbreakable) for line in long), long
    examples = text.split("\nexamples:\n")[1].replace(" \\\n", " ")
    commands = [re.sub(" +", " ", line) for line in examples.split("\n\n")[0].splitlines()]
    monkeypatch.setenv("COLUMNS", "200")
    in_full = help_of(capsys, *command).split("\nexamples:\n")[1].split("\n\n")[0]
    assert commands == [re.sub(" +", " ", line) for line in in_full.splitlines()]


def test_a_run_folder_is_taken_for_its_recipe(tmp_path, capsys):
    (tmp_path / "moved").mkdir()
    write(tmp_path / "moved", YAML + "run_folder: runs/before\n", "recipe.yaml")
    assert main(["train", "moved", "--dry-run", "seed=3"]) == 2  # the store is missing
    assert re.search(r"^run folder +moved, seed 3$", capsys.readouterr().out, re.MULTILINE)
    assert main(["plan", "moved", "--step", "1"]) == 2
    assert "error: tokenizer: store does not exist; " in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    (tmp_path / "recipes").mkdir()
    assert main(["train", "recipes"]) == 2
    message = "error: recipes is a folder, and not that of a run, which has a recipe.yaml; name "
    assert capsys.readouterr().err == f"{message}a YAML file\n"
    write(tmp_path / "recipes")
    assert main(["doctor", "recipes"]) == 2
    assert capsys.readouterr().err == f"{message}one of its files, such as recipes/little.yaml\n"


@pytest.mark.parametrize("command", ["report", "evaluate", "export out", "average out"])
def test_a_recipe_in_place_of_a_run_folder(tmp_path, capsys, command):
    write(tmp_path)
    name, *rest = command.split()
    assert main([name, "little.yaml", *rest]) == 2
    expected = (
        "little.yaml is a YAML file, and not the folder of a run; name the folder of its run, runs/little"
    )
    assert capsys.readouterr().err == f"error: {expected}\n"


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
    assert main(["train", "recipe.yaml"]) == 137
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
