"""The table of `make test-faults`: printed at the end, and written to build/test-faults.md."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import tests.helpers.quiet_composer  # noqa: F401
from modernbert_train.common.text import markdown_table
from tests.faults.scenes import Scene
from tests.helpers import faults
from tests.helpers.recipes import make_tiny

COLUMNS = ("fault", "tries", "ranks", "outcome", "seconds", "processes left", "shared memory left")
DISK_MEGABYTES = 24


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("inputs")).parent


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory) -> Callable[[int], Path]:
    """Returns the undisturbed run on a number of ranks."""
    runs: dict[int, Path] = {}

    def run_of(world_size: int) -> Path:
        if world_size not in runs:
            folder = tmp_path_factory.mktemp("undisturbed")
            scene = Scene(inputs, folder / "run", world_size, num_workers=0, seed=0)
            scene.folder = folder
            scene.goes_on()
            runs[world_size] = scene.run
        return runs[world_size]

    return run_of


@pytest.fixture
def make_scene(inputs: Path, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Returns a run with inputs of its own, on a small disk if asked for."""
    with ExitStack() as stack:

        def make(world_size: int, num_workers: int, seed: int, *, small_disk: bool = False) -> Scene:
            folder = tmp_path / "scene"
            shutil.copytree(inputs, folder)
            recipe = folder / "tiny.yaml"
            recipe.write_text(recipe.read_text().replace(str(inputs), str(folder)))
            run = folder / "run"
            if small_disk:
                try:
                    stack.enter_context(faults.small_disk(folder / "disk", DISK_MEGABYTES))
                except OSError as error:
                    pytest.skip(str(error))
                run = folder / "disk" / "run"
            scene = Scene(folder, run, world_size, num_workers, seed)
            stack.callback(lambda: [launch.kill() for launch in scene.launches])
            return scene

        yield make


def pytest_terminal_summary(terminalreporter, config):
    found: dict[str, list[dict]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "fault":
                found.setdefault(value["kind"], []).append(value)
    if not found:
        return
    table = markdown_table(COLUMNS, [[kind, *_cells(tries)] for kind, tries in found.items()])
    terminalreporter.section("faults")
    terminalreporter.write_line(table)
    file = config.rootpath / "build/test-faults.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(table + "\n")


def _cells(tries: list[dict]) -> list[str]:
    seconds = [value["seconds"] for value in tries]
    return [
        str(len(tries)),
        ", ".join(str(value["ranks"]) for value in tries),
        "; ".join(dict.fromkeys(value["outcome"] for value in tries)),
        f"{min(seconds):.1f} to {max(seconds):.1f}",
        str(sum(value["processes"] for value in tries)),
        str(sum(value["memory"] for value in tries)),
    ]
