from pathlib import Path

import pytest

from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import files_of, run_tokenize, sentences, stored_texts, write_json_lines


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
