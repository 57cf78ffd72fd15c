import csv
import gzip
import io
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.inputs.parts import resolve_inputs
from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.rows import Span
from tests.helpers.texts import TRICKY_TEXTS, write_json_lines


def read(path, text_field="text"):
    return list(read_texts(Span(str(path)), text_field))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json.gz"])
def test_json_lines(tmp_path, ending):
    assert read(write_json_lines(tmp_path / f"x{ending}", TRICKY_TEXTS)) == TRICKY_TEXTS


def test_zstd_of_several_frames(tmp_path):
    lines = write_json_lines(tmp_path / "x.jsonl", TRICKY_TEXTS).read_bytes()
    frame = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(frame, "zstd") as out:
        out.write(lines)
    (tmp_path / "x.jsonl.zst").write_bytes(frame.getvalue().to_pybytes() * 2)
    assert read(tmp_path / "x.jsonl.zst") == TRICKY_TEXTS * 2


def test_blank_lines_and_a_byte_order_mark_are_no_documents(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert read(tmp_path / "x.jsonl") == ["a", "b"]


def test_parquet(tmp_path):
    table = pyarrow.table({"text": TRICKY_TEXTS, "n": range(len(TRICKY_TEXTS))})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    assert read(tmp_path / "x.parquet") == TRICKY_TEXTS


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_a_text_file_is_a_document(tmp_path, text):
    (tmp_path / "x.txt").write_bytes(text.encode("utf-8"))
    assert read(tmp_path / "x.txt") == [text]


def test_saved_dataset(tmp_path):
    datasets.Dataset.from_dict({"text": TRICKY_TEXTS}).save_to_disk(tmp_path / "saved")
    assert resolve_inputs([str(tmp_path / "saved")]) == [str(tmp_path / "saved")]
    assert read(tmp_path / "saved") == TRICKY_TEXTS


def test_hub_names_are_streamed(tmp_path):
    """datasets accepts a folder as a name, so no network is needed."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        texts = [f"{split} {text}" for text in TRICKY_TEXTS[:3]]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / f"{split}.parquet")
    assert read(f"hf:{folder}") == [f"train {text}" for text in TRICKY_TEXTS[:3]]
    assert read(f"hf:{folder}:test") == [f"test {text}" for text in TRICKY_TEXTS[:3]]
    assert read(f"hf:{folder}:default:test") == [f"test {text}" for text in TRICKY_TEXTS[:3]]
    with pytest.raises(ValueError, match=r"hf:.*:dev: cannot be loaded"):
        read(f"hf:{folder}:dev")
    with pytest.raises(ValueError, match="row 1: has no field 'body'; fields: text"):
        read(f"hf:{folder}", "body")
    with pytest.raises(
        ValueError, match=r"must be hf:NAME\[@REVISION\], optionally with :SPLIT or :CONFIG:SPLIT"
    ):
        read("hf:a:b:c:d")


def test_patterns(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "[x].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_json_lines(tmp_path / name, ["x"])
    found = resolve_inputs([f"{tmp_path}/**/*.jsonl", f"{tmp_path}/a.jsonl", "hf:some/name"])
    names = ["[x].jsonl", "a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert found == [*(str(tmp_path / name) for name in names), "hf:some/name"]
    assert resolve_inputs([f"{tmp_path}/[x].jsonl"]) == [f"{tmp_path}/[x].jsonl"]


def test_pattern_errors(tmp_path):
    (tmp_path / "x.doc").touch()
    (tmp_path / "folder").mkdir()
    datasets.DatasetDict({"dev": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(
        tmp_path / "saved"
    )
    for pattern, message in {
        "nothing*": "no file matches .*nothing",
        "x.doc": r"x\.doc has an unknown ending; allowed: \.jsonl,",
        "folder": r"folder is a folder without \.txt files and was not written by datasets\.save_to_disk",
        "saved": "is a dataset with the splits dev; name one: .*saved/dev",
    }.items():
        with pytest.raises(ValueError, match=message):
            resolve_inputs([str(tmp_path / pattern)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', r"x\.jsonl:3: broken JSON \(Expecting ',' delimiter, column \d+\)"),
        (b"text", r"x\.jsonl:3: broken JSON \(Expecting value, column 1\)"),
        (b'{"text": "\xff"}', r"x\.jsonl:3: invalid UTF-8 \(invalid start byte, byte 10\)"),
        (b'{"text": "\\ud800"}', r"x\.jsonl:3: field 'text' holds a lone surrogate \(character 0\)"),
        (
            b'{"body": "a", "id": 1}',
            r"x\.jsonl:3: has no field 'text'; fields: body, id; choose one with --text-field",
        ),
        (b"{}", r"x\.jsonl:3: has no field 'text'; fields: none"),
        (b'{"text": 7}', r"x\.jsonl:3: field 'text' must be a string, is int"),
        (b'{"text": null}', r"x\.jsonl:3: field 'text' must be a string, is NoneType"),
        (b'["text"]', r"x\.jsonl:3: must be an object with a field 'text', is a list"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.jsonl")


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_compression_is_named(tmp_path, ending, damage):
    data = "".join(json.dumps({"text": f"{number}"}) + "\n" for number in range(50_000)).encode()
    path = tmp_path / f"x{ending}"
    codec = "gzip" if ending.endswith("gz") else "zstd"
    with pyarrow.output_stream(str(path), compression=codec) as out:
        out.write(data)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"garbage" * 100)
    with pytest.raises(ValueError, match=rf"x{ending}:\d+: cannot be read \(.*\); restore the file"):
        read(path)


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"x\.parquet, row 2: field 'text' must be a string, is NoneType"):
        read(path)
    with pytest.raises(
        ValueError, match=r"x\.parquet: has no column 'body'; columns: text; choose with --text"
    ):
        read(path, "body")
    invalid = pyarrow.array([b"a", b"\xff"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": invalid}), path)
    with pytest.raises(ValueError, match=r"x\.parquet, row 2: invalid UTF-8"):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"x\.parquet: cannot be read after row 0"):
        read(path)


def test_bad_text_file_is_named(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"x\.txt: invalid UTF-8 \(invalid start byte, byte 3\)"):
        read(tmp_path / "x.txt")


def test_damaged_saved_dataset_is_named(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(ValueError, match="saved: cannot be loaded"):
        read(tmp_path / "saved")


def test_gzip_of_several_members(tmp_path):
    member = gzip.compress(b'{"text": "a"}\n')
    (tmp_path / "x.jsonl.gz").write_bytes(member + member)
    assert read(tmp_path / "x.jsonl.gz") == ["a", "a"]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".csv.zst"])
def test_csv(tmp_path, ending):
    file = io.StringIO(newline="")
    rows = csv.writer(file)
    rows.writerow(["id", "text"])
    rows.writerows(enumerate(TRICKY_TEXTS))
    data = ("\ufeff" + file.getvalue()).encode()
    codec = {".gz": "gzip", ".zst": "zstd"}.get(ending[4:])
    with pyarrow.output_stream(str(tmp_path / f"x{ending}"), compression=codec) as out:
        out.write(data)
    assert read(tmp_path / f"x{ending}") == TRICKY_TEXTS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id,text\n1,a\n2\n", r"x\.csv, row 2: has 1 fields, but the header has 2; repair the row"),
        (b"id,text\n1,a\n2,b,c\n", r"x\.csv, row 2: has 3 fields, but the header has 2; repair the row"),
        (b"id,body\n1,a\n", r"x\.csv, row 1: has no field 'text'; fields: id, body"),
        (b'id,text\n1,"a\n', r"x\.csv: cannot be read after row 0 \(unexpected end of data\)"),
        (
            b"id,text\n1,a\n2,\xff\n",
            r"x\.csv: cannot be read after row 0 \('utf-8' codec can't decode byte 0xff",
        ),
    ],
)
def test_bad_csv_is_named(tmp_path, data, message):
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.csv")


def test_csv_of_long_fields_and_empty_lines(tmp_path):
    (tmp_path / "x.csv").write_text("text\r\n" + "x" * 200_000 + "\r\n\r\ny\r\n", newline="")
    assert read(tmp_path / "x.csv") == ["x" * 200_000, "y"]


def test_what_cannot_be_read_is_left_out_on_request(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n{\n{"text": 7}\n{"text": "\xff"}\n{"text": "b"}\n')
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(50_000)), mtime=0)
    (tmp_path / "y.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    left_out = LeftOut(skip_unreadable=True)
    texts = list(read_texts(Span(str(tmp_path / "x.jsonl")), "text", (), left_out))
    assert texts == ["a", "b"]
    before_the_damage = list(read_texts(Span(str(tmp_path / "y.jsonl.gz")), "text", (), left_out))
    assert before_the_damage == [str(n) for n in range(len(before_the_damage))]
    assert left_out.counts == {"unreadable_documents": 3, "unreadable_files": 1}
    assert [message.split(": ")[0].rpartition("/")[2] for message in left_out.unreadable[:3]] == [
        "x.jsonl:2", "x.jsonl:3", "x.jsonl:4",
    ]  # fmt: skip
    assert "y.jsonl.gz:" in left_out.unreadable[3]


def test_a_folder_of_text(tmp_path):
    for name in ("b.txt", "deep/a.txt", "deep/x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = resolve_inputs([str(tmp_path)])
    assert [text for item in found for text in read(item)] == ["b.txt", "deep/a.txt"]


def test_a_revision_of_a_hub_dataset(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((*args, kwargs))
        return [{"text": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("hf:some/name@1a2b:config:test") == ["a"]
    assert asked == [("some/name", "config", {"split": "test", "streaming": True, "revision": "1a2b"})]
