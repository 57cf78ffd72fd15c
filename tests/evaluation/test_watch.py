"""Evaluation of the checkpoints of a run while it trains."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modernbert_train.checkpoints.checkpoint import checkpoint_path, save_weights
from modernbert_train.checkpoints.info import info_file
from modernbert_train.checkpoints.run_files import list_checkpoints, read_watch
from modernbert_train.checkpoints.source import open_weights
from modernbert_train.cli import main
from modernbert_train.evaluation import watch as watching
from modernbert_train.evaluation.masked_lm import evaluate_masked_lm
from modernbert_train.evaluation.watch import Scores, WatchOptions, watch
from tests.evaluation.test_masked_lm import MODEL, make_tokenizer_with_template, recipe_for, write_run
from tests.helpers.exported import random_weights
from tests.helpers.stores import make_store, random_documents

# Tokens of a step of the run below, and the steps of the whole.
TOKENS, STEPS = 512, 10


def save(run: Path, step: int, **fields: Any) -> Path:
    """Add a checkpoint with weights of its own, as training would."""
    info = open_weights(checkpoint_path(run, STEPS)).info if step != STEPS else None
    assert info is not None
    weights = {name: weight + 0.01 * step for name, weight in random_weights(MODEL).items()}
    changed = {"step": step, "tokens": step * TOKENS, "total_tokens": STEPS * TOKENS, **fields}
    return save_weights(run, weights, replace(info, **changed))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 2, 4 and 10, the last."""
    documents = random_documents(10, seed=1)
    store = make_store(
        tmp_path / "store",
        make_tokenizer_with_template(tmp_path / "tokenizer"),
        {"web": {"train": documents, "valid": documents}},
    )
    run = write_run(tmp_path / "run", recipe_for(store.path, "web"), random_weights(MODEL))
    path = checkpoint_path(run, STEPS)
    last = replace(open_weights(path).info, total_tokens=STEPS * TOKENS)
    info_file(path).write_text(last.to_json())
    for step in (2, 4):
        save(run, step)
    return run


def digests(run: Path) -> dict[Path, tuple[str, int]]:
    """Content and time of change of every file that is the run's."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in run.rglob("*")
        if path.is_file() and path.name != "watch.jsonl"
    }


def steps_of(run: Path) -> list[int]:
    return [line["step"] for line in read_watch(run)]


def test_a_finished_run_is_evaluated_once_and_not_touched(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(run)
    assert main(["evaluate", "--watch", str(run), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "step 2, 1,024 tokens", "step 4, 2,048 tokens", "step 10, 5,120 tokens",
    ]  # fmt: skip
    assert digests(run) == before
    watched = read_watch(run)
    (expected,) = evaluate_masked_lm(checkpoint_path(run, 4), device="cpu", progress_bar=False)
    assert watched[1]["scores"]["web"] == {
        "loss": expected.loss, "loss_error": expected.loss_error, "perplexity": expected.perplexity,
        "accuracy": expected.accuracy, "accuracy_error": expected.accuracy_error,
        "unigram_loss": expected.unigram.loss, "unigram_accuracy": expected.unigram.accuracy,
    }  # fmt: skip
    assert {line["kind"] for line in watched} == {"evaluate"}
    assert main(["evaluate", "--watch", str(run), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == ""
    # New weights of the same step, as after `modernbert rewind`, are evaluated again.
    save_weights(run, random_weights(MODEL), open_weights(checkpoint_path(run, 4)).info)
    assert main(["evaluate", "--watch", str(run), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("step 4, ")
    assert steps_of(run) == [2, 4, 10]
    assert len((run / "watch.jsonl").read_text().splitlines()) == 4


def test_bits_per_byte_of_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "text.txt").write_text("w7 w9 w12 w20 " * 40)
    text = f"web={run.parent}/text.txt"
    assert main(["evaluate", "--watch", str(run), "--text", text, "--bits-per-byte", "--every", "4K"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("step 10, 5,120 tokens: web ")
    assert [(line["kind"], line["step"]) for line in read_watch(run)] == [
        ("bits_per_byte", 2),
        ("bits_per_byte", 10),
    ]
    assert read_watch(run)[0]["scores"]["web"].keys() == {"bits_per_byte", "bits_per_byte_error"}


def constant(*_: object) -> Scores:
    return {"web": {"loss": 1.0}}


def watched(run: Path, score: Callable[[Path], Scores] = constant, **options: Any) -> list[str]:
    return list(watch(WatchOptions(run, **options), "evaluate", score, str))


def test_tokens_between_evaluations_and_ends_of_phases(run: Path) -> None:
    for step in (5, 6, 7):
        save(run, step, keep=step == 5)
    watched(run, every_tokens=4 * TOKENS)
    # 4 comes too early, 5 is the end of a phase, 6 and 7 come too early, and 10 is the last.
    assert steps_of(run) == [2, 5, 10]


def test_checkpoints_that_are_removed_or_damaged_meanwhile(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint_path(run, 4).write_bytes(b"damaged")

    def score(path: Path) -> Scores:
        if path == checkpoint_path(run, 2):  # the run removes it while it is read
            path.unlink()
            info_file(path).unlink()
        torch.testing.assert_close(open_weights(path).read(), random_weights(MODEL))
        return constant()

    watched(run, score)
    assert steps_of(run) == [10]
    assert "CHECKPOINT SKIPPED: " in caplog.text

    def fail(path: Path) -> Scores:
        raise ValueError(f"{path.name}: the text does not fit")

    (run / "watch.jsonl").unlink()
    with pytest.raises(ValueError, match=r"step-00000010\.pt: the text does not fit"):
        watched(run, fail)


def test_a_running_run_is_followed_to_its_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_POLL_SECONDS", 0.05)
    last = checkpoint_path(run, STEPS)
    aside = {path: path.read_bytes() for path in (last, info_file(last))}
    late = save(run, 6).rename(run / "late.pt"), info_file(checkpoint_path(run, 6)).rename(run / "late.json")
    for path in aside:
        path.unlink()

    def train() -> None:
        for content, path in (
            (late[1], info_file(checkpoint_path(run, 6))),
            (late[0], checkpoint_path(run, 6)),
        ):
            content.rename(path)
        time.sleep(0.2)
        for path, data in reversed(aside.items()):
            path.write_bytes(data)

    training = threading.Timer(0.2, train)
    training.start()
    lines = watched(run, idle_seconds=60.0)
    training.join()
    assert [line.split(",")[0] for line in lines] == ["step 2", "step 4", "step 6", "step 10"]
    assert list_checkpoints(run)[-1] == last


def test_a_run_that_never_goes_on_is_left(run: Path) -> None:
    last = checkpoint_path(run, STEPS)
    last.unlink()
    lines = watched(run, idle_seconds=0.01)
    assert lines[-1] == "no new checkpoint for 0 seconds, and the run has not finished; stopped watching"
    assert steps_of(run) == [2, 4]


def test_lines_of_another_form_are_skipped(tmp_path: Path) -> None:
    good = {"kind": "probe", "step": 8, "tokens": 9, "scores": {"sst2": {"score": 0.5, "twin": None}}}
    lines = [
        {**good, "scores": {"sst2": {"score": 0.4}}}, good, {**good, "kind": "evaluate", "step": 3},
        {**good, "scores": {"sst2": "high"}}, {**good, "tokens": "many"}, {"step": 1}, [1],
    ]  # fmt: skip
    (tmp_path / "watch.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "ki'
    )
    assert [(line["kind"], line["step"]) for line in read_watch(tmp_path)] == [("evaluate", 3), ("probe", 8)]
    assert read_watch(tmp_path)[1]["scores"] == good["scores"]
    assert read_watch(tmp_path / "nothing") == []
