from pathlib import Path

import pytest

from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import run_tokenize, sentences, stored_texts, write_json_lines


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("data_prep.inputs.parts.MIN_PART_BYTES", 5_000)


def test_texts_that_hold_a_benchmark_are_left_out(tokenizer_folder, tmp_path, capsys):
    benchmark, clean = sentences(3, seed=2), sentences(5, seed=3)
    thirteen = " ".join(benchmark[1].split()[40:53])
    contaminated = [f"{clean[0]} {thirteen.upper()}. {clean[1]}", benchmark[2]]
    twelve = f"{clean[2]} {thirteen.rpartition(' ')[0]} {clean[3]}"
    write_json_lines(tmp_path / "x.jsonl", [*clean, contaminated[0], twelve, contaminated[1]])
    write_json_lines(tmp_path / "benchmark.jsonl", benchmark)
    options = ("--workers", "1", "--valid-fraction", "0", "--decontaminate", "benchmark.jsonl")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 0
    assert stored_texts("store", "web") == [*clean, twelve]
    manifest = load_manifest("store")
    assert manifest.left_out == {"web": {"contaminated": 2}}
    assert "--decontaminate benchmark.jsonl --ngram-words 13" in manifest.command
    assert "web: left out 2 contaminated" in capsys.readouterr().out
    options = (*options, "--ngram-words", "12", "--overwrite")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 0
    assert stored_texts("store", "web") == clean


def test_a_long_text_is_looked_at_in_pieces(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.inputs.long_text.LONG_CHARACTERS", 100)
    monkeypatch.setattr("data_prep.inputs.long_text.PIECE_BYTES", 50)
    benchmark, clean = sentences(1, seed=2), sentences(3, seed=3)
    thirteen = " ".join(benchmark[0].split()[40:53])
    for name, text in {"a": f"{clean[0]} {thirteen} {clean[1]}", "b": clean[2]}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    write_json_lines(tmp_path / "benchmark.jsonl", benchmark)
    options = ("--workers", "1", "--valid-fraction", "0", "--decontaminate", "benchmark.jsonl")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=*.txt", options=options) == 0
    assert stored_texts("store", "web") == clean[2:]


def test_decontamination_errors_are_one_line(tokenizer_folder, tmp_path, capsys):
    write_json_lines(tmp_path / "x.jsonl", ["a few words"])
    options = ("--workers", "1", "--decontaminate", "x.jsonl")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 2
    assert "error: decontaminate: no text has 13 words in a row" in capsys.readouterr().err
    options = (*options, "--ngram-words", "0", "--overwrite")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 2
    assert "error: ngram-words: 0 must be at least 1" in capsys.readouterr().err
