import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main
from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import numbered_texts, run_tokenize, write_json_lines

REPOSITORY = Path(__file__).parents[2]
COMMANDS = ("corpus", "tokenizer", "tokenize", "index", "verify", "inspect")


@pytest.fixture
def store(tokenizer_folder, tmp_path, capsys):
    file = write_json_lines(tmp_path / "x.jsonl", [*numbered_texts(300), "a long one " * 9_000])
    options = ("--workers", "1", "--valid-fraction", "0.05", "--licence", "web=CC0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}", options=options) == 0
    capsys.readouterr()
    return tmp_path / "store"


def test_without_arguments_help_is_printed(capsys):
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"examples:\n  python -m data_prep {command}" in capsys.readouterr().out


def test_as_a_module_errors_are_one_line():
    command = [sys.executable, "-m", "data_prep", "verify", "nowhere"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: store: nowhere does not exist; make it with `python -m data_prep tokenize nowhere ...`"
    ]


def test_unknown_command(capsys):
    assert main(["tokenise"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no command 'tokenise'; did you mean tokenize? (see `python -m data_prep --help`)\n"
    )


def test_unknown_option(capsys):
    assert main(["verify", "store", "--worker", "2"]) == 2
    assert "error: there is no option --worker (see `python -m data_prep verify" in capsys.readouterr().err
    assert main(["inspect", "store", "--document=2", "--sauce", "web"]) == 2
    assert "error: there is no option --sauce; did you mean --source? " in capsys.readouterr().err


def test_ctrl_c(monkeypatch, capsys, store):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("modernbert_train.store.verification.verify_store", interrupt)
    assert main(["verify", str(store)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_verify_intact(store, capsys):
    assert main(["verify", str(store)]) == 0
    assert capsys.readouterr().out.startswith("intact: 2 shards, 301 documents, ")


def test_verify_names_a_truncated_shard(store, capsys):
    shard = store / "web/train/shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert main(["verify", str(store)]) == 1
    assert capsys.readouterr().out.startswith(f"damaged: {shard}: ")


def test_verify_names_a_damaged_sidecar(store, capsys):
    file = store / "web/valid/lengths.npy"
    file.unlink()
    assert main(["verify", str(store)]) == 1
    assert f"damaged: {file} is missing, " in capsys.readouterr().out


def test_inspect(store, capsys):
    assert main(["inspect", str(store), "--documents", "2"]) == 0
    out = capsys.readouterr().out
    split = load_manifest(store).sources["web"]["train"]
    row = next(line.split() for line in out.splitlines() if line.startswith("web/train"))
    lengths = split.lengths()
    assert row[1:3] == [f"{split.num_documents:,}", f"{split.num_tokens:,}"]
    assert row[4] == f"{int(np.median(lengths)):,}"
    assert row[6] == f"{lengths.max():,}"
    assert row[7] == row[8] == f"{1 / split.num_documents:.1%}"
    assert "web: licence CC0; left out nothing" in out
    assert out.count("--- web/train, document ") == 2
    assert "document 0, " in out
    assert "\ndocument 0 \n" in out


def test_inspect_decodes_the_documents_it_names(store, capsys):
    num_documents = load_manifest(store).sources["web"]["train"].num_documents
    assert main(["inspect", str(store), "--documents", str(num_documents)]) == 0
    samples = capsys.readouterr().out.split("--- web/train, document ")[1:]
    assert len(samples) == num_documents
    numbers = [int(sample.splitlines()[1].split()[1]) for sample in samples[:-1]]
    assert numbers == sorted(numbers)  # numbered_texts, in the order of the corpus
    assert "a long one a long one" in samples[-1]


def test_inspect_one_source(store, capsys):
    assert main(["inspect", str(store), "--source", "web", "--documents", "0"]) == 0
    assert "--- web" not in capsys.readouterr().out
    assert main(["inspect", str(store), "--source", "code"]) == 2
    assert "error: source: no source is named 'code'; sources: web" in capsys.readouterr().err


def test_inspect_refuses_an_unfinished_store(store, capsys):
    (store / "manifest.json").unlink()
    assert main(["inspect", str(store)]) == 2
    assert "preparation did not finish" in capsys.readouterr().err


def test_summary_counts_what_the_manifest_counts(tokenizer_folder, tmp_path, capsys):
    file = write_json_lines(tmp_path / "x.jsonl", numbered_texts(100))
    assert run_tokenize(tmp_path / "store", tokenizer_folder, f"web={file}") == 0
    split = json.loads((tmp_path / "store/manifest.json").read_text())["sources"]["web"]["splits"]["train"]
    assert f"{split['num_tokens']:,}" in capsys.readouterr().out
