from pathlib import Path

import numpy as np
import pytest

from modernbert_train.store.manifest import load_manifest
from tests.data_prep.tokenize.test_duplicates import stored_texts
from tests.helpers.texts import files_of, run_tokenize, write_json_lines


def sentences(count: int, seed: int) -> list[str]:
    """Texts of 120 words drawn from 17,576: two of them share no five words in a row."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return [" ".join("".join(word) for word in random.choice(letters, (120, 3))) for _ in range(count)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("data_prep.inputs.parts.MIN_PART_BYTES", 5_000)


def test_one_of_nearly_the_same_texts_stays(tokenizer_folder, tmp_path):
    texts = sentences(30, seed=0)
    near = [text.title().replace(" ", "  ", 5) + "!" for text in texts[:10]]
    other = sentences(10, seed=1)
    write_json_lines(tmp_path / "a.jsonl", [*texts, texts[0]])
    write_json_lines(tmp_path / "b.jsonl", [*other, *near])
    options = ("--valid-fraction", "0", "--near-dedup", "--dedup")
    for workers in ("1", "2"):
        inputs = ("a=a.jsonl", "b=b.jsonl")
        assert (
            run_tokenize(Path(workers), tokenizer_folder, *inputs, options=(*options, "--workers", workers))
            == 0
        )
    left_out = load_manifest("1").left_out
    assert left_out["a"]["duplicate"] == 1
    assert sum(counts.get("near_duplicate", 0) for counts in left_out.values()) == 10
    kept = [*stored_texts("1", "a"), *stored_texts("1", "b")]
    assert len(kept) == 40
    assert {*texts[10:], *other} < set(kept)
    for first, second in zip(texts[:10], near, strict=True):
        assert (first in kept) != (second in kept)
    assert files_of(Path("1")) == files_of(Path("2"))


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


def test_decontamination_errors_are_one_line(tokenizer_folder, tmp_path, capsys):
    write_json_lines(tmp_path / "x.jsonl", ["a few words"])
    options = ("--workers", "1", "--decontaminate", "x.jsonl")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 2
    assert "error: decontaminate: no text has 13 words in a row" in capsys.readouterr().err
    options = (*options, "--ngram-words", "0", "--overwrite")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 2
    assert "error: ngram-words: 0 must be at least 1" in capsys.readouterr().err
