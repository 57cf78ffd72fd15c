import os

import datasets
import pytest

from data_prep.inputs.files import resolve_inputs
from tests.helpers.texts import write_json_lines


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names_of(folder, paths):
    return [os.path.relpath(path, folder) for path in paths]


def test_patterns(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "[x].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_json_lines(tmp_path / name, ["x"])
    found = resolve_inputs([f"{tmp_path}/**/*.jsonl", f"{tmp_path}/a.jsonl", "hf:some/name"])
    names = ["[x].jsonl", "a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert found.items == [*(str(tmp_path / name) for name in names), "hf:some/name"]
    assert found.left_out == {}
    assert resolve_inputs([f"{tmp_path}/[x].jsonl"]).items == [f"{tmp_path}/[x].jsonl"]
    assert resolve_inputs([f"{tmp_path}/d*"]).items == [f"{tmp_path}/deep/c.jsonl"]
    assert resolve_inputs([f"{tmp_path}/**"]).items == found.items[:4]


def test_patterns_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    make(tmp_path, "a/b.txt", "a/c/d.txt", "e.txt")
    monkeypatch.chdir(tmp_path)
    assert resolve_inputs(["**/*.txt"]).items == ["a/b.txt", "a/c/d.txt", "e.txt"]
    assert resolve_inputs(["a/**/*.txt"]).items == ["a/b.txt", "a/c/d.txt"]
    assert resolve_inputs(["*/**/d.*"]).items == ["a/c/d.txt"]


def test_a_folder_says_what_it_leaves_out(tmp_path):
    folder = make(
        tmp_path / "x", "a.txt", "B.TXT", "c/d.txt.gz", "README.md", "data.sha256", "._a.txt", ".git/e.txt"
    )
    found = resolve_inputs([str(folder)])
    assert names_of(folder, found.items) == ["B.TXT", "a.txt", "c/d.txt.gz"]
    assert {reason: names_of(folder, paths) for reason, paths in found.left_out.items()} == {
        "hidden_files": ["._a.txt", ".git"],
        "other_files": ["README.md", "data.sha256"],
    }
    assert found.counts() == {"hidden_files": 2, "other_files": 2}
    assert found.describe() == (
        "2 .txt, 1 .txt.gz; left out 2 hidden files (._a.txt, .git); left out 2 other files (README.md, data.sha256)"
    )


def test_linked_folders_are_followed_once(tmp_path):
    folder = make(tmp_path / "x", "a.txt")
    outside = make(tmp_path / "outside", "b.txt")
    (folder / "linked").symlink_to(outside)
    (folder / "circle").symlink_to(folder)
    (folder / "other_circle").symlink_to(folder)
    (outside / "back").symlink_to(folder)
    (folder / "z.txt").symlink_to(folder / "a.txt")
    found = resolve_inputs([str(folder)])
    assert names_of(folder, found.items) == ["a.txt", "linked/b.txt"]
    assert names_of(folder, found.left_out["linked_twice"]) == [
        "circle",
        "linked/back",
        "other_circle",
        "z.txt",
    ]
    assert names_of(folder, resolve_inputs([f"{folder}/**/*.txt"]).items) == ["a.txt", "linked/b.txt"]


@pytest.mark.parametrize(
    ("names", "pattern", "counts"),
    [
        (("README.txt", "part.jsonl.gz", "part2.jsonl.gz"), "", "2 .jsonl.gz, 1 .txt"),
        (("a.json", "b.jsonl"), "", "1 .json, 1 .jsonl"),
        (("deep/README.txt", "a.parquet"), "", "1 .parquet, 1 .txt"),
        (("a.txt", "b.csv"), "/*", "1 .csv, 1 .txt|1 .txt, 1 .csv"),
    ],
)
def test_a_folder_of_several_formats_is_refused(tmp_path, names, pattern, counts):
    folder = make(tmp_path / "x", *names)
    with pytest.raises(
        ValueError, match=f"holds files of several formats: ({counts}); name those to take"
    ) as error:
        resolve_inputs([f"{folder}{pattern}"])
    suggested = str(error.value).split("'")[1]
    assert len(resolve_inputs([suggested]).items) == counts.startswith("2") + 1


def test_ndjson_and_compression_are_no_other_format(tmp_path):
    folder = make(tmp_path / "x", "a.jsonl", "b.ndjson", "c.JSONL.zst")
    assert len(resolve_inputs([str(folder)]).items) == 3


def test_pattern_errors(tmp_path):
    make(tmp_path, "x.doc", "x.parquet.gz", "folder/x.doc")
    datasets.DatasetDict({"dev": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(
        tmp_path / "saved"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/dataset_dict.json").write_text("[]")
    os.mkfifo(tmp_path / "folder/pipe.txt")
    for pattern, message in {
        "nothing*": "no file matches .*nothing",
        "x.doc": r"x\.doc has an unknown ending; allowed: \.jsonl,",
        "x.parquet.gz": "has an unknown ending",
        "folder": r"folder is a folder without documents; endings of documents: \.jsonl,",
        "saved": "is a dataset with the splits dev; name one: .*saved/dev",
        "broken": "is a dataset with the splits ; name one: .*broken/train",
    }.items():
        with pytest.raises(ValueError, match=message):
            resolve_inputs([str(tmp_path / pattern)])
