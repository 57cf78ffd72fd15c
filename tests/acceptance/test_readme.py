"""The pages of the project: links and paths exist, every command parses, every piece of YAML loads."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep.cli import build_parser
from modernbert_train.cli.parser import parse
from modernbert_train.config import load_recipe
from modernbert_train.sweep.definition import read_sweep

ROOT = Path(__file__).parents[2]
FOLDERS = ("docker", "docs", "yamls")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
]
LINK = re.compile(r"\]\(([^)#\s]+)")
CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LAUNCHER = re.compile(r"^(srun|composer|torchrun) .*?(-m modernbert_train|modernbert(?= ))")


def commands_of(page: Path) -> list[str]:
    """Return the project's commands on a page: in code blocks, and complete ones in the text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")  # a command may continue on the next line
    blocks = CODE_BLOCK.findall(text)
    lines = [line for kind, block in blocks if kind == "bash" for line in block.splitlines()]
    prose = CODE_BLOCK.sub("", text)
    spans = [span for span in INLINE.findall(prose) if len(span.split()) > 2 or span.startswith("make ")]
    lines += INDENTED.findall(prose) + spans
    commands = [LAUNCHER.sub("modernbert", line.strip()) for line in lines]
    return [
        command
        for command in commands
        if command.startswith(("modernbert ", "python -m data_prep ", "make "))
    ]


def words_of(command: str) -> list[str]:
    """Return the words of a command, without `> file` at its end."""
    words = shlex.split(command, comments=True)
    return words[: words.index(">")] if ">" in words else words


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def yaml_of(page: str) -> list[str]:
    """Return the YAML blocks of a page, in their order."""
    return [block for kind, block in CODE_BLOCK.findall((ROOT / page).read_text()) if kind == "yaml"]


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A folder with the shipped recipes, and with the recipe and sweeps of the pages under the names used there."""
    (tmp_path / "yamls").symlink_to(ROOT / "yamls")
    (recipe,) = yaml_of("README.md")
    (sweep,) = yaml_of("docs/sweeps.md")
    (initial_weights,) = yaml_of("docs/initial-weights.md")
    (tmp_path / "my").mkdir()
    (tmp_path / "my/recipe.yaml").write_text(recipe)
    (tmp_path / "my/sweep.yaml").write_text(sweep)
    (tmp_path / "my/initial-weights.yaml").write_text(initial_weights)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_links_are_found():
    """Otherwise the tests below could pass without testing anything."""
    programs = {" ".join(command.split()[:2]) for command in COMMANDS}
    assert programs >= {"make quickstart", "make test", "modernbert train", "modernbert export", "python -m"}
    assert len(COMMANDS) > 10
    assert len(LINK.findall(PAGES[0].read_text())) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_paths_of_the_layout_exist():
    tree = (
        (ROOT / "README.md")
        .read_text()
        .partition("## Layout")[2]
        .partition("```text\n")[2]
        .partition("```")[0]
    )
    # "  sweep/, benchmark/  what they are for"
    lines = [line.strip() for line in tree.splitlines() if line.startswith("  ")]
    listed = {name for line in lines for name in line.split("  ")[0].split(", ")}
    folders = {line.split()[0] for line in tree.splitlines() if not line.startswith("  ")}
    package = ROOT / "modernbert_train"
    packages = {
        f"{path.name}/" for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()
    }
    assert listed == packages | {"schedule.py", "objectives.py"}
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if not c.startswith("make ")}))
def test_commands_parse(newcomer, command):
    words = words_of(command)
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            (build_parser().parse_args(words[3:]) if words[0] == "python" else parse(words[1:]))
        return
    if words[0] == "python":
        assert callable(build_parser().parse_args(words[3:]).run)
        return
    assert callable(parse(words[1:]).run)


def _loads(command: str) -> tuple[str, ...]:
    """Return the command, file and overrides of `modernbert train` and `sweep`."""
    options = parse(words_of(command)[1:])
    name = command.split()[1]
    return name, options.recipe if name == "train" else options.sweep, *options.overrides


LOADED = {
    _loads(command)
    for command in COMMANDS
    if command.startswith(("modernbert train", "modernbert sweep")) and "--help" not in command
}


@pytest.mark.parametrize("loaded", sorted(LOADED), ids=" ".join)
def test_recipes_and_sweeps_of_commands_load(newcomer, loaded):
    name, file, *overrides = loaded
    if name == "train":
        load_recipe(file, overrides)
        return
    read_sweep(file, overrides)


def test_parts_of_a_recipe_load(newcomer):
    pages = ("objectives", "mixture", "inspect-a-step", "initialization")
    objectives, mixtures, skipped, starts = (yaml_of(f"docs/{page}.md")[0] for page in pages)
    parts = [f"phases:\n  pretrain:\n    {mixture}\n" for mixture in mixtures.splitlines()]
    parts += [skipped, *starts.splitlines(), objectives]
    loaded = []
    for part in parts:
        (newcomer / "my/variant.yaml").write_text(f"include: recipe.yaml\n{part}")
        loaded.append(load_recipe("my/variant.yaml"))
    assert loaded[0] == load_recipe("my/recipe.yaml")
    assert all(recipe != other for number, recipe in enumerate(loaded) for other in loaded[:number])
    assert len(loaded) == 4 + 1 + 4 + 1
    assert [loaded[-1].phases[name].objective for name in ("warm_start", "pretrain")] == ["clm", "mlm"]


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make ")}))
def test_make_targets_exist(command):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    target = shlex.split(command, comments=True)[1]
    done = subprocess.run([make, "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PIP = """#!/bin/sh
case "$*" in *requirements.lock*) ;; *) echo "pip $*"; exit ;; esac
echo "Collecting torch==2.14.1 (from -r requirements.lock (line 9))"
echo "  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (530.6 MB)"
echo "     ---------------------- 530.6/530.6 MB 9.1 MB/s eta 0:00:00"
echo "  Using cached pyarrow-25.0.1-cp311-cp311-manylinux_2_28_x86_64.whl (48.2 MB)"
echo "  Downloading regex-2026.9.1-cp311-cp311-manylinux2014_x86_64.whl (9.8 MB)"
echo "Installing collected packages: torch, pyarrow, regex"
[ -z "$FAILS" ] || { echo "ERROR: no space left" >&2; exit 1; }
"""
PYTHON = """#!/bin/sh
[ "$2" = venv ] || exit 0
mkdir -p .venv/bin && cp pip .venv/bin/pip
"""


@pytest.mark.parametrize("fails", ["", "yes"])
def test_setup_names_the_large_downloads(tmp_path, fails):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in {"pip": PIP, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = ["make", "setup", "PYTHON=./python"]
    environment = {**os.environ, "FAILS": fails}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == (not fails), done.stderr
    assert ("ERROR: no space left" in done.stderr) == bool(fails)
    lines = done.stdout.splitlines()
    start = next(at for at, line in enumerate(lines) if "packages into .venv: about 3 GB to download" in line)
    assert lines[start + 1 : start + 4] == [
        "Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (530.6 MB)",
        "Using cached pyarrow-25.0.1-cp311-cp311-manylinux_2_28_x86_64.whl (48.2 MB)",
        "Installing collected packages",
    ]
    assert (tmp_path / ".venv/.installed").exists() == (not fails)


def test_the_five_commands_work_on_each_other(newcomer):
    """The output of each command is the input of the next one and of the recipe."""
    recipe = load_recipe("my/recipe.yaml")
    tokenize = next(command for command in COMMANDS if "data_prep tokenize " in command)
    options = build_parser().parse_args(shlex.split(tokenize, comments=True)[3:])
    assert options.tokenizer == recipe.data.tokenizer
    assert {source.store for source in recipe.data.sources.values()} == {str(options.store)}
    assert {item.partition("=")[0] for item in options.input} == set(recipe.data.sources)
