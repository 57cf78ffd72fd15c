import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from modernbert_train.tasks.reading import read_task
from modernbert_train.tasks.schema import Task
from modernbert_train.tasks.suite import find_task

ROWS = [{"a": f'text "{i}"\u2028', "b": f"second {i // 2}", "label": ["no", "yes"][i % 2]} for i in range(20)]


def task_of(folder: Path, overrides: list[str], **fields: Any) -> Task:
    base = {"text": ["a", "b"], "labels": ["no", "yes"], "files": {"train": "t.jsonl", "valid": "v.jsonl"}}
    (folder / "suite.yaml").write_text(json.dumps({"tasks": {"mine": base | fields}}))
    return find_task(f"{folder / 'suite.yaml'}:mine", overrides)


def write_jsonl(file: Path, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write(file: Path, rows: list[dict[str, str]]) -> None:
    """Write rows in the format that the name of the file says."""
    jsonl = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if ".tsv" in file.name:
        file.write_text(
            "\n".join(["a\tb\tlabel", *("\t".join(row.values()) for row in rows)]) + "\n", encoding="utf-8"
        )
    elif ".csv" in file.name:
        cells = [[f'"{value.replace(chr(34), 2 * chr(34))}"' for value in row.values()] for row in rows]
        file.write_text("\n".join(["a,b,label", *map(",".join, cells)]) + "\n", encoding="utf-8")
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".gz":
        file.write_bytes(gzip.compress(jsonl))
    elif file.suffix == ".zst":
        file.write_bytes(zstandard.compress(jsonl))
    else:
        file.write_bytes(jsonl)


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.json", "x.tsv", "x.csv", "x.parquet"]
)
def test_all_formats_give_the_same_rows(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, ROWS)
    rows = read_task(task_of(tmp_path, [], files={"train": name, "valid": name}))
    assert rows.train.texts == [(row["a"], row["b"]) for row in ROWS]
    assert rows.train.labels == rows.valid["valid"].labels == [0, 1] * 10


def test_labels_are_names_or_numbers(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", [{"a": "x", "b": "y", "label": label} for label in ("no", 1, "1", 0.0)])
    write_jsonl(tmp_path / "v.jsonl", [{"a": "x", "b": "y", "label": label} for label in (True, False)])
    assert read_task(task_of(tmp_path, [])).train.labels == [0, 1, 1, 0]
    truths = task_of(tmp_path, ["files.train=v.jsonl"], labels=["false", "true"])
    assert read_task(truths).train.labels == [1, 0]


def test_a_split_keeps_groups_together_and_is_the_same_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", ROWS[:12])
    write_jsonl(tmp_path / "v.jsonl", ROWS[12:])
    task = task_of(tmp_path, [], split={"group_by": "b", "valid_fraction": 0.3})
    rows = read_task(task)
    train, valid = ({text[1] for text in part.texts} for part in (rows.train, rows.valid["valid"]))
    assert len(valid) == 3
    assert len(train) == 7
    assert not train & valid
    assert len(rows.train) + len(rows.valid["valid"]) == 20
    assert read_task(task) == rows
    assert read_task(task_of(tmp_path, ["split.seed=1"], split={"group_by": "b"})) != rows


def test_a_limit_takes_some_rows(tmp_path: Path) -> None:
    for name in ("t.jsonl", "v.jsonl"):
        write_jsonl(tmp_path / name, ROWS)
    rows = read_task(task_of(tmp_path, ["train_rows=7", "valid_rows=50"]))
    assert len(rows.train) == 7
    assert len(rows.valid["valid"]) == 20
    assert set(rows.train.texts) < set(rows.valid["valid"].texts)


def test_words_have_a_label_each(tmp_path: Path) -> None:
    rows = [{"words": ["Ada", "sleeps"], "tags": ["B-X", "O"]}, {"words": "in Rome", "tags": "0 1"}]
    for name in ("t.jsonl", "v.jsonl"):
        write_jsonl(tmp_path / name, rows)
    task = task_of(tmp_path, [], kind="tokens", text="words", label="tags", labels=["O", "B-X", "I-X"])
    assert read_task(task).train.texts == [("Ada", "sleeps"), ("in", "Rome")]
    assert read_task(task).train.labels == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        ({"a": "x", "label": 0}, {}, r"t.jsonl: row 2: there is no column 'b', .* text; the columns are a, label"),
        ({"a": "x", "b": None, "label": 0}, {}, "row 2: b is empty"),
        ({"a": 3, "b": "y", "label": 0}, {}, "row 2: a is 3, expected text"),
        ({"a": "x", "b": "y"}, {}, "row 2: there is no column 'label', which the task names as label"),
        ({"a": "x", "b": "y", "lable": 0}, {}, "did you mean lable"),
        ({"a": "x", "b": "y", "label": 2}, {}, "row 2: label is 2, expected one of no, yes, or its number from 0 to 1"),
        ({"a": "x", "b": "y", "label": -1}, {}, "a test split whose labels are hidden"),
        ({"a": "x", "b": "y", "label": "yess"}, {}, "did you mean yes"),
        ({"a": "x", "b": "y", "label": "high"}, {"kind": "regression", "labels": []}, "label is 'high', expected a"),
        ({"a": "x y", "label": [0]}, {"kind": "tokens", "text": "a"}, "a is 2 words, expected .* each of the 1 labels"),
        ({"a": "x y", "label": 0}, {"kind": "tokens", "text": "a"}, "label is 0, expected a list with a label"),
        ([1], {}, "t.jsonl cannot be read: line 2 is .*, expected a JSON object"),
        ({"a": "x", "b": "y", "label": 0}, {}, "all 2 rows to train on have the label 'no'"),
        ({"a": "x", "b": "y", "label": 0}, {"files": {"train": "u.jsonl", "valid": "t.jsonl"}}, "u.jsonl: there is no"),
        ({"a": "x", "b": "y", "label": 0}, {"files": {"train": "t.txt", "valid": "t.jsonl"}}, "file of rows ends in"),
        ({"a": "x", "b": "y", "label": 0}, {"split": {"group_by": "b"}}, "by which all rows are one group"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_said_in_a_line(
    row: Any, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    first = {"a": "x y", "b": "y", "label": [0, 1] if fields.get("kind") == "tokens" else 0}
    write_jsonl(tmp_path / "t.jsonl", [first, row])
    write_jsonl(tmp_path / "v.jsonl", [first])
    with pytest.raises(ValueError, match=message) as error:
        read_task(task_of(tmp_path, [], **fields))
    assert "\n" not in str(error.value)


def test_the_hub_without_network_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"mine: split train of hub o/n cannot be loaded .*; without network, set files"
    ):
        read_task(task_of(tmp_path, [], hub="o/n", files={}))


def test_a_dataset_is_read_by_its_splits_and_in_its_order_of_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the layout of the hub is read by the same function, without network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        a=datasets.Value("string"), b=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])
    )
    (tmp_path / "hub/data").mkdir(parents=True)
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_list(
            [row | {"label": i % 2} for i, row in enumerate(ROWS)], features=features
        )
        rows.to_parquet(tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    hub = {"hub": str(tmp_path / "hub"), "files": {}}
    rows = read_task(task_of(tmp_path, [], **hub))
    assert rows.train.texts == [(row["a"], row["b"]) for row in ROWS]
    assert rows.valid["validation"].labels == [0, 1] * 10
    with pytest.raises(ValueError, match="numbers them in the order no, yes; write them in that order"):
        read_task(task_of(tmp_path, [], **hub, labels=["yes", "no"]))
