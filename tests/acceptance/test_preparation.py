"""All available real text, prepared with 1, 2 and 4 workers and with ten kills: the stores have the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modernbert_train.store.manifest import load_manifest
from modernbert_train.store.verification import verify_store
from tests.helpers.texts import files_of

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared/data"
CORPORA = [
    "web_gov", "web_cc", "wiki", "books_chapters", "sci_arxiv", "techdocs", "code", "long_books", "long_plos",
]  # fmt: skip
NUM_KILLS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3_600),
    pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout"),
]


def command(store: Path, workers: int) -> list[str]:
    inputs = [f"{name}={SHARED}/{name}/*.jsonl.gz" for name in CORPORA]
    inputs.append(f"long_qmsum={SHARED}/long_qmsum/train.jsonl.gz")
    options = ["--tokenizer", str(SHARED / "tokenizer"), "--workers", str(workers), "--dedup"]
    return [sys.executable, "-m", "data_prep", "tokenize", str(store), *options, "--input", *inputs]


def start(store: Path, workers: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(store, workers), env=environment, **quiet)


def finished_tasks(store: Path) -> dict[Path, int]:
    folders = [path for path in store.glob(".work/*/*") if path.is_dir() and path.suffix != ".tmp"]
    return {path: path.stat().st_ino for path in folders}


def killed_runs(store: Path, workers: int) -> int:
    """Kill the preparation repeatedly, each time a little later, the last times while it merges."""
    for kill in range(NUM_KILLS):
        before = finished_tasks(store)
        process = start(store, workers)
        while process.poll() is None:
            merging = (store / "web_gov").is_dir()
            if merging or (kill < NUM_KILLS - 3 and len(finished_tasks(store)) >= len(before) + 8):
                break
            time.sleep(0.002)
        time.sleep(0.05 * (kill % 3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            return kill
        assert before.items() <= finished_tasks(store).items(), "a finished part was done again"
    return NUM_KILLS


def test_workers_and_kills_change_no_byte(tmp_path):
    expected = None
    for workers in (1, 2, 4):
        store = tmp_path / f"by_{workers}"
        assert start(store, workers).wait() == 0
        expected = expected or files_of(store)
        assert files_of(store) == expected
    manifest = load_manifest(tmp_path / "by_1")
    assert len(manifest.sources) == 10
    assert sum(split.num_tokens for splits in manifest.sources.values() for split in splits.values()) > 35e6
    assert verify_store(manifest) == []
    store = tmp_path / "killed"
    num_kills = killed_runs(store, workers=2)
    assert start(store, workers=2).wait() == 0
    assert files_of(store) == expected
    print(f"{num_kills} kills, {sum(len(data) for data in expected.values()):,} bytes identical")
    assert num_kills >= 8
