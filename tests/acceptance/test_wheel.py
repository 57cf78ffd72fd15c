"""The package, installed from a wheel and used outside the repository, includes its recipes."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.recipes import TINY, YAMLS, make_tiny
from tests.helpers.sweeps import SHORT

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command: object, exit_code: int = 0, **options: object) -> str:
    """Run a command that must end with this exit code, and return its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == exit_code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the wheel in a folder of its own, with the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because a build leaves files beside the code
    for name in ("modernbert_train", "data_prep", "yamls"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    run(*PIP, "install", "--no-deps", "--target", folder / "site", wheel)
    return folder / "site"


def modernbert(site: Path, *arguments: object, exit_code: int = 0) -> str:
    """Run the `modernbert` of the installed wheel in the working directory."""
    return run(
        sys.executable,
        site / "bin/modernbert",
        *arguments,
        exit_code=exit_code,
        env={"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
    )


def test_contents_of_the_wheel(site):
    shipped = {path.relative_to(YAMLS) for path in YAMLS.rglob("*.yaml")}
    package = site / "modernbert_train"
    assert {path.relative_to(package / "yamls") for path in (package / "yamls").rglob("*.yaml")} == shipped
    assert (package / "benchmark/published.yaml").is_file()
    assert [(site / package / "py.typed").is_file() for package in ("modernbert_train", "data_prep")] == [
        True,
        True,
    ]
    assert not (site / "yamls").exists()


def test_the_version(site):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert modernbert(site, "--version") == f"modernbert {version}\n"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_shipped_recipes_and_sweeps_are_found(site):
    # The recipe is found; its data is not there.
    text = modernbert(site, "train", "yamls/pretrain/one-gpu-one-day.yaml", "--dry-run", exit_code=2)
    assert "\n\none-gpu-one-day: " in text
    commands = modernbert(site, "sweep", "yamls/ablations/architecture.yaml", "--list").splitlines()
    assert all(f" train {site}/modernbert_train/yamls/quickstart.yaml " in command for command in commands)


@pytest.mark.slow
def test_a_recipe_that_includes_a_shipped_model_trains(site, tmp_path):
    recipe = make_tiny(tmp_path)
    recipe.write_text("include: yamls/models/quickstart.yaml\n" + TINY.format(folder=tmp_path))
    modernbert(site, "train", recipe.name, *SHORT)
    assert (tmp_path / "run/checkpoints/step-00000002.pt").is_file()
