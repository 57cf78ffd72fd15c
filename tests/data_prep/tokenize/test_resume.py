"""Interrupted anywhere and rerun, a preparation ends with the same bytes and repeats no finished part."""

import json
import os
from pathlib import Path

import pytest

from data_prep.tokenize.work_folder import store_locked
from modernbert_train.store.manifest import load_manifest
from modernbert_train.store.verification import verify_store
from tests.helpers.texts import files_of, numbered_texts, run_tokenize, write_json_lines


class Killed(BaseException):
    """Simulates kill -9 within this process: nothing in the program catches it."""


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.inputs.parts.MIN_PART_BYTES", 3_000)
    write_json_lines(tmp_path / "a.jsonl", numbered_texts(60))
    write_json_lines(tmp_path / "b.jsonl", [*numbered_texts(30)[::-1], "the only one of its kind"])
    return ("a=a.jsonl", "b=b.jsonl")


OPTIONS = ("--workers", "1", "--valid-fraction", "0.2")


@pytest.mark.parametrize("options", [(), ("--dedup",)])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_rename(tokenizer_folder, monkeypatch, inputs, options, after):
    """Every step, including merging, ends in a rename: die before or after each one in turn."""
    options = (*OPTIONS, *options)
    assert run_tokenize(Path("whole"), tokenizer_folder, *inputs, options=options) == 0
    expected = files_of(Path("whole"))
    assert verify_store(load_manifest("whole")) == []
    renames: list[Path] = []
    last = None

    def dying_rename(path, target, rename=os.rename):
        if not after and len(renames) == last:
            raise Killed
        renames.append(Path(target))
        rename(path, target)
        if after and len(renames) - 1 == last:
            raise Killed

    def recorded_rename(path, target, rename=os.rename):
        renames.append(Path(target))
        rename(path, target)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, dying_rename)
    for last in range(1_000):
        store = Path(f"store{last}")
        renames.clear()
        try:
            assert run_tokenize(store, tokenizer_folder, *inputs, options=options) == 0
            break
        except Killed:
            finished = {target for target in renames if target.parent.parent.name == ".work"}
        renames.clear()
        with monkeypatch.context() as patch:
            for name in ("rename", "replace"):
                patch.setattr(os, name, recorded_rename)
            assert run_tokenize(store, tokenizer_folder, *inputs, options=options) == 0
        assert not finished & set(renames), "a finished part is repeated"
        assert files_of(store) == expected
    assert last > 20
    assert files_of(store) == expected


def test_many_parts_make_few_shards(tokenizer_folder, inputs):
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=OPTIONS) == 0
    for splits in load_manifest("store").sources.values():
        assert [len(split.shards) for split in splits.values()] == [1, 1]


def test_workers_and_parts_of_one_store_agree_with_its_order(tokenizer_folder, inputs, tmp_path):
    for workers in ("1", "3"):
        options = (*OPTIONS, "--workers", workers)
        assert run_tokenize(tmp_path / workers, tokenizer_folder, *inputs, options=options) == 0
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def interrupt(tokenizer, inputs, monkeypatch):
    """Leave an unfinished store with its first task done."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "data_prep.tokenize.prepare.merge", lambda job: (_ for _ in ()).throw(ValueError("stop"))
        )
        assert run_tokenize(Path("store"), tokenizer, *inputs, options=OPTIONS) == 2


def test_another_command_over_an_unfinished_store_is_refused(tokenizer_folder, inputs, monkeypatch, capsys):
    interrupt(tokenizer_folder, inputs, monkeypatch)
    before = files_of(Path("store"))
    options = (*OPTIONS, "--valid-fraction", "0.1")
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: store: store is an unfinished store of another command (it was `python -m"
    )
    assert "finish it with that command, name another folder, or replace it with --overwrite" in error
    assert files_of(Path("store")) == before
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=(*options, "--overwrite")) == 0
    assert "--valid-fraction 0.1" in load_manifest("store").command


def test_an_input_that_changed_is_refused(tokenizer_folder, inputs, monkeypatch, capsys):
    interrupt(tokenizer_folder, inputs, monkeypatch)
    write_json_lines(Path("b.jsonl"), ["something else"])
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=OPTIONS) == 2
    assert "(the input b.jsonl has changed since)" in capsys.readouterr().err


def test_overwrite_goes_on_with_the_same_command(tokenizer_folder, inputs, monkeypatch, capsys):
    interrupt(tokenizer_folder, inputs, monkeypatch)
    assert "resuming" not in capsys.readouterr().err
    done = sorted(Path("store/.work/tokens").iterdir())
    fail = lambda *_, **__: pytest.fail("a finished task runs again")  # noqa: E731
    monkeypatch.setattr("data_prep.tokenize.stages.write_tokens", fail)
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=(*OPTIONS, "--overwrite")) == 0
    assert f"resuming: {len(done)} of {len(done)} parts are done" in capsys.readouterr().err


def test_a_finished_store_is_left_alone_by_its_own_command(tokenizer_folder, inputs, capsys):
    for _ in range(2):
        assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=OPTIONS) == 0
    before = {path: os.stat(path).st_mtime_ns for path in Path("store").rglob("*.*")}
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=OPTIONS) == 0
    assert {path: os.stat(path).st_mtime_ns for path in Path("store").rglob("*.*")} == before
    assert not Path("store/.work").exists()


def test_a_store_is_prepared_by_one_process_at_a_time(tokenizer_folder, inputs, capsys):
    with store_locked(Path("store")):
        assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=OPTIONS) == 2
    assert "error: store: another process is preparing store" in capsys.readouterr().err


def test_the_manifest_has_a_summary_of_the_lengths(tokenizer_folder, inputs):
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=OPTIONS) == 0
    content = json.loads(Path("store/manifest.json").read_text())
    for source, splits in load_manifest("store").sources.items():
        for name, split in splits.items():
            lengths = sorted(split.lengths().tolist())
            stated = content["sources"][source]["splits"][name]["lengths_tokens"]
            for key, percent in (("p5", 5), ("p50", 50), ("p95", 95), ("max", 100)):
                rank = -(-len(lengths) * percent // 100)  # the smallest length that so many do not exceed
                assert stated[key] == lengths[rank - 1]
