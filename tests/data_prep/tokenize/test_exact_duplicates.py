import json
from pathlib import Path

import numpy as np
import pytest

from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import files_of, run_tokenize, stored_texts, write_json_lines


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Write three files of two sources with many duplicates within and across files."""
    monkeypatch.setattr("data_prep.inputs.parts.MIN_PART_BYTES", 2_000)
    random = np.random.default_rng(0)
    texts = {
        name: [f"text number {n} says so" if n else "" for n in random.integers(0, 300, 150)]
        for name in "abc"
    }
    for name, of_file in texts.items():
        write_json_lines(tmp_path / f"{name}.jsonl", of_file)
    return texts


@pytest.mark.parametrize("bucket_bytes", [1 << 40, 3_000])
def test_the_first_occurrence_stays(tokenizer_folder, texts, monkeypatch, bucket_bytes):
    monkeypatch.setattr(
        "data_prep.tokenize.exact_duplicates.BUCKET_BYTES", bucket_bytes
    )  # one bucket, and ten
    seen, expected, left_out = set(), {"web": [], "code": []}, {"web": 0, "code": 0}
    for source, name in (("web", "c"), ("web", "a"), ("code", "b")):  # the slow, simple way
        for text in filter(None, texts[name]):
            if text in seen:
                left_out[source] += 1
            else:
                seen.add(text)
                expected[source].append(text)
    options = ("--workers", "1", "--valid-fraction", "0", "--dedup")
    inputs = ("web=c.jsonl,a.jsonl", "code=b.jsonl")
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=options) == 0
    for source, kept in expected.items():
        assert stored_texts("store", source) == kept
    manifest = load_manifest("store")
    assert {source: counts["duplicate"] for source, counts in manifest.left_out.items()} == left_out
    assert min(left_out.values()) > 10
    num_empty = {"web": texts["a"].count("") + texts["c"].count(""), "code": texts["b"].count("")}
    assert {source: counts.get("empty", 0) for source, counts in manifest.left_out.items()} == num_empty


def test_hashes_that_agree_in_one_half_are_no_duplicates(tokenizer_folder, tmp_path, monkeypatch):
    halves = {"a": b"x" * 8 + b"1" * 8, "b": b"x" * 8 + b"2" * 8, "c": b"y" * 8 + b"2" * 8, "d": b"\xff" * 16}
    write_json_lines(tmp_path / "x.jsonl", ["a", "d", "b", "c", "a", "b", "d"])
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.tokenize.exact_duplicates.digest_of", lambda text, size: halves[text])
        patch.setattr("data_prep.tokenize.encoding.falls_into_valid", lambda text, fraction: False)
        options = ("--workers", "1", "--valid-fraction", "0", "--dedup")
        assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 0
    assert stored_texts("store", "web") == ["a", "d", "b", "c"]


def test_documents_with_the_same_id_are_two_documents(tokenizer_folder, tmp_path):
    """Ids of the input are not used: a document is identified by source, part and number."""
    lines = [{"id": 7, "text": "one"}, {"id": 7, "text": "two"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 0
    assert stored_texts("store", "web") == ["one", "two"]


def test_workers_find_the_same_duplicates(tokenizer_folder, texts):
    for workers in ("1", "2"):
        options = ("--workers", workers, "--valid-fraction", "0.1", "--dedup")
        inputs = ("web=c.jsonl,a.jsonl", "code=b.jsonl")
        assert run_tokenize(Path(workers), tokenizer_folder, *inputs, options=options) == 0
    assert files_of(Path("1")) == files_of(Path("2"))
