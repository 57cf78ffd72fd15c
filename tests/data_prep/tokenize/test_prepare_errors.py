import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import files_of, numbered_texts, run_tokenize, write_json_lines

REPOSITORY = Path(__file__).parents[3]


def test_a_failed_run_leaves_no_store_and_the_next_one_goes_on(tokenizer_folder, tmp_path, capsys):
    good = write_json_lines(tmp_path / "a.jsonl", numbered_texts(10))
    bad = tmp_path / "b.jsonl"
    bad.write_text('{"text": "x"}\n{"text": \n')
    store = tmp_path / "store"
    assert run_tokenize(store, tokenizer_folder, f"a={good}", f"b={bad}") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {bad}:2: broken JSON")
    with pytest.raises(ValueError, match="preparation did not finish"):
        load_manifest(store)
    options = ("--workers", "1", "--on-bad-row", "skip", "--valid-fraction", "0")
    assert run_tokenize(store, tokenizer_folder, f"a={good}", f"b={bad}", options=options) == 2
    assert "is an unfinished store of another command" in capsys.readouterr().err
    options = (*options, "--overwrite")
    assert run_tokenize(store, tokenizer_folder, f"a={good}", f"b={bad}", options=options) == 0
    assert list(load_manifest(store).sources) == ["a", "b"]
    assert not (store / ".work").exists()


def test_a_killed_run_leaves_no_store_and_no_process(tokenizer_folder, tmp_path):
    file = write_json_lines(tmp_path / "x.jsonl", ["the cat sat on the mat " * 1_000] * 5_000)
    command = [sys.executable, "-m", "data_prep", "tokenize", str(tmp_path / "store")]
    command += [
        "--tokenizer",
        str(tokenizer_folder),
        "--input",
        f"web={file}",
        "--workers",
        "2",
        "--shard-megabytes",
        "1",
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    children: set[int] = set()
    while not list((tmp_path / "store").glob(".work/tokens/*.tmp/train/shard.*")):  # in the midst of writing
        assert process.poll() is None
        children |= _children(process.pid)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    deadline = time.monotonic() + 30
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline, "workers outlive the run that was killed"
        time.sleep(0.1)
    with pytest.raises(ValueError, match="preparation did not finish"):
        load_manifest(tmp_path / "store")


def _children(pid: int) -> set[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in text.split()}


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_finished_store_is_replaced_on_request_alone(tokenizer_folder, tmp_path, capsys):
    store = tmp_path / "store"
    file = write_json_lines(tmp_path / "x.jsonl", numbered_texts(5))
    assert run_tokenize(store, tokenizer_folder, f"web={file}") == 0
    before = files_of(store)
    assert run_tokenize(store, tokenizer_folder, f"code={file}") == 2
    assert "is finished; name another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert files_of(store) == before
    assert (
        run_tokenize(store, tokenizer_folder, f"code={file}", options=("--overwrite", "--workers", "1")) == 0
    )
    assert list(load_manifest(store).sources) == ["code"]
    assert not (store / "web").exists()


@pytest.mark.parametrize("options", [("--workers", "1"), ("--workers", "1", "--overwrite")])
def test_files_of_others_are_never_deleted(tokenizer_folder, tmp_path, capsys, options):
    file = write_json_lines(tmp_path / "x.jsonl", numbered_texts(5))
    (tmp_path / "page").mkdir()
    (tmp_path / "page/manifest.json").write_text('{"name": "a web page"}')
    assert run_tokenize(tmp_path / "page", tokenizer_folder, f"web={file}", options=options) == 2
    assert "is not empty and not a token store" in capsys.readouterr().err
    assert run_tokenize(file, tokenizer_folder, f"web={tmp_path}/*.jsonl", options=options) == 2
    assert "which is emptied first; name another store" in capsys.readouterr().err
    assert (
        run_tokenize(tmp_path / "page/manifest.json", tokenizer_folder, f"web={file}", options=options) == 2
    )
    assert "is a file; name a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "page/manifest.json").is_file()


def test_a_store_that_is_replaced_is_not_read(tokenizer_folder, tmp_path, capsys):
    store = tmp_path / "store"
    file = write_json_lines(tmp_path / "x.jsonl", numbered_texts(5))
    assert run_tokenize(store, tokenizer_folder, f"web={file}") == 0
    for tokenizer, read in ((store, file), (tokenizer_folder, write_json_lines(store / "y.jsonl", ["x"]))):
        assert run_tokenize(store, tokenizer, f"web={read}", options=("--overwrite",)) == 2
        assert "which is emptied first; name another store" in capsys.readouterr().err
    load_manifest(store)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["web"], [], "input: 'web' must be SOURCE=GLOB[,GLOB]"),
        (["=x.jsonl"], [], "input: '=x.jsonl' must be SOURCE=GLOB[,GLOB]"),
        (
            ["a/b=x.jsonl"],
            [],
            "input: source 'a/b' must be a folder name of letters, digits, '_', '-' and '.'",
        ),
        (["web=none.jsonl"], [], "input: no file matches 'none.jsonl'"),
        (["web=x.doc"], [], "input: x.doc has an unknown ending; allowed: .jsonl"),
        (
            ["web=x.jsonl"],
            ["--valid-fraction", "1"],
            "valid-fraction: 1.0 must be at least 0 and less than 1",
        ),
        (["web=x.jsonl"], ["--workers", "0"], "workers: 0 must be at least 1"),
        (["web=x.jsonl"], ["--shard-megabytes", "4096"], "shard-megabytes: 4096 must be between 1 and 4095"),
        (["web=x.jsonl"], ["--licence", "CC0"], "licence: 'CC0' must be SOURCE=TEXT"),
        (["web=x.jsonl"], ["--licence", "code=CC0"], "licence: no source is named 'code'; sources: web"),
        (["web=x.jsonl"], ["--text-field", "body"], "x.jsonl:1: has no field 'body'"),
        (
            ["web=x.jsonl"],
            ["--text-field", "code=body"],
            "text-field: no source is named 'code'; sources: web",
        ),
        (["web=x.jsonl"], ["--documents", ""], "documents: '' must be file, line, blank-line"),
        (["web=x.jsonl"], ["--delimiter", "ab"], "delimiter: 'ab' must be one character"),
        (["web=x.jsonl"], ["--encoding", "web=none"], "encoding: 'none' is unknown"),
        (["web=empty.jsonl"], [], "source web: no document with text (0 read); check its input"),
        (["web=blank.jsonl"], [], "source web: no document with text (2 empty); check its input"),
        (["web=x.jsonl"], ["--valid-fraction", "0.9999999"], "source web: all 3 documents are held out"),
        (["web=x.jsonl"], ["--tokenizer", "nowhere"], "tokenizer: nowhere does not exist"),
    ],
)
def test_errors_are_one_line(tokenizer_folder, tmp_path, capfd, inputs, options, message):
    write_json_lines(tmp_path / "x.jsonl", numbered_texts(3))
    write_json_lines(tmp_path / "blank.jsonl", ["", ""])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "x.doc").touch()
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=("--workers", "1", *options)) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {message}")
    assert not (tmp_path / "store/manifest.json").exists()


def test_an_error_in_a_worker_is_one_line_too(tokenizer_folder, tmp_path, capfd):
    (tmp_path / "x.jsonl").write_text('{"text": "x"}\n' * 5_000 + "{\n")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=("--workers", "2")) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: x.jsonl:5001: broken JSON")


def test_a_killed_worker_is_an_error_not_a_hang(tokenizer_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("data_prep.tokenize.local._run_in_worker", _die)
    write_json_lines(tmp_path / "x.jsonl", numbered_texts(3))
    inputs = ("web=x.jsonl", "code=x.jsonl")
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=("--workers", "2")) == 2
    assert "error: a worker process was killed" in capfd.readouterr().err
    assert not (tmp_path / "store/manifest.json").exists()


def _die(number):
    os.kill(os.getpid(), signal.SIGKILL)
