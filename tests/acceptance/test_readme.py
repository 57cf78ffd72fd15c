"""The pages of the project: links and paths exist, every command parses, every piece of YAML loads."""

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
    listed = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    folders = {line.split()[0] for line in tree.splitlines() if not line.startswith("  ")}
    package = ROOT / "modernbert_train"
    packages = {
        f"{path.name}/" for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()
    }
    assert listed == packages | {"schedule.py", "objectives.py"}
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if not c.startswith("make ")}))
def test_commands_parse(newcomer, command):
    words = shlex.split(command, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            (build_parser().parse_args(words[3:]) if words[0] == "python" else parse(words[1:]))
        return
    if words[0] == "python":
        assert callable(build_parser().parse_args(words[3:]).run)
        return
    options = parse(words[1:])
    if words[1] == "train":
        load_recipe(options.recipe, options.overrides)
    if words[1] == "sweep":
        try:
            read_sweep(options.sweep, options.overrides, options.folder)
        except ValueError as error:
            # The runs of a sweep that begins from those of another one.
            problems = str(error).splitlines()[1:]
            assert problems
            assert all("seed-17: no such run folder" in problem for problem in problems)


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


def test_the_five_commands_work_on_each_other(newcomer):
    """The output of each command is the input of the next one and of the recipe."""
    recipe = load_recipe("my/recipe.yaml")
    tokenize = next(command for command in COMMANDS if "data_prep tokenize " in command)
    options = build_parser().parse_args(shlex.split(tokenize, comments=True)[3:])
    assert options.tokenizer == recipe.data.tokenizer
    assert {source.store for source in recipe.data.sources.values()} == {str(options.store)}
    assert {item.partition("=")[0] for item in options.input} == set(recipe.data.sources)
