"""Commands that must start at once import none of the large libraries, from the entry to the last line of output."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.spawned import start

REPOSITORY = Path(__file__).parents[1]
LARGE = {
    "torch", "composer", "streaming", "torchvision", "transformers", "datasets", "pandas", "wandb", "matplotlib",
    "scipy", "sklearn", "paramiko",
}  # fmt: skip


def imported_by(module: str, *arguments: str, exit_code: int = 0) -> set[str]:
    """Run `python -m module`, which must end with `exit_code`, and return the large libraries that it has imported."""
    code = (
        "import atexit, json, runpy, sys\n"
        f"atexit.register(lambda: print(json.dumps(sorted({LARGE} & set(sys.modules))), file=sys.stderr))\n"
        f"sys.argv = {[module, *arguments]}\n"
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.startswith("error: ") if exit_code else done.stdout
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture(scope="module")
def finished(tiny):
    """The folder of the tiny recipe, with the metrics of a run."""
    run = tiny.parent / "run"
    run.mkdir()
    line = {"step": 1, "tokens": 2_048, "phase": "pretrain", "loss": 5.0, "lr": 1e-3, "batch_tokens": 2_048}
    line |= {"context_tokens": 64, "mask_rate": 0.3, "tokens_per_s": 1e3, "source_tokens": {"web": 2_000}}
    steps = [line | {"step": step, "tokens": 2_048 * step} for step in range(1, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    shutil.copy(tiny.parent / "tokenizer/tokenizer.json", tiny.parent / "store")
    (tiny.parent / "store/tokenizer_config.json").write_text("{}")
    return tiny.parent


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("modernbert_train", ["--help"]),
        ("modernbert_train", ["train", "--help"]),
        ("modernbert_train", ["train", "{}/tiny.yaml", "--dry-run", "--tokens-per-second", "1e5"]),
        ("modernbert_train", ["plan", "{}/tiny.yaml", "--step", "3"]),
        ("modernbert_train", ["plan", "{}/tiny.yaml", "--step", "3", "--text"]),
        ("modernbert_train", ["report", "{}/run"]),
        ("data_prep", ["--help"]),
        ("data_prep", ["verify", "{}/store"]),
    ],
)
def test_no_large_library_is_imported(finished, module, arguments):
    assert not imported_by(module, *(argument.format(finished) for argument in arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "{}/run", "{}"],
        ["import", "{}/run", "{}"],
        ["average", "{}/run", "{}/run", "{}"],
        ["evaluate", "{}/missing"],
        ["rewind", "{}/missing", "--step", "1"],
    ],
)
def test_a_mistyped_path_is_an_error_at_once(finished, arguments):
    texts = [argument.format(finished) for argument in arguments]
    assert not imported_by("modernbert_train", *texts, exit_code=2)


def test_a_picture_needs_matplotlib_alone(finished):
    assert imported_by("data_prep", "inspect", f"{finished}/store") == {"matplotlib"}


def print_imported():
    print(json.dumps(sorted(LARGE & set(sys.modules))))


def test_a_rank_imports_what_training_needs():
    """Processes of tests.helpers.spawned start with what `modernbert_train.training.train` has imported."""
    assert set(json.loads(start(print_imported).finish().stdout)) == {"torch", "composer", "torchvision"}
