"""What becomes of rows: texts, counts by reason, or errors of one line."""

import gzip
import json

import pytest

from data_prep.inputs.readers import LeftOut
from tests.helpers.inputs import COMPRESS, encode_texts, read
from tests.helpers.texts import TRICKY_TEXTS


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("file_format", ["jsonl", "ndjson", "json", "csv", "tsv"])
def test_formats(tmp_path, file_format, compression):
    path = tmp_path / f"x.{file_format.upper()}{compression}"
    path.write_bytes(COMPRESS[compression](encode_texts(file_format, TRICKY_TEXTS)))
    assert read(path) == TRICKY_TEXTS


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("text", [*TRICKY_TEXTS[:4], "\n\n"])
def test_a_text_file_is_a_document(tmp_path, text, compression):
    (tmp_path / f"x.txt{compression}").write_bytes(COMPRESS[compression](text.encode()))
    assert read(tmp_path / f"x.txt{compression}") == [text]


def test_null_and_empty_texts_are_counted(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n{"text": null}\n{"text": "a"}\n{"text": ""}\n')
    left_out = LeftOut()
    assert read(tmp_path / "x.jsonl", left_out) == ["a"]
    assert left_out.counts == {"empty": 2, "null": 1}
    with pytest.raises(
        ValueError, match=r"x\.jsonl:1: field 'text' is empty; remove the row, or leave it out"
    ):
        read(tmp_path / "x.jsonl", LeftOut("stop"))


def test_what_cannot_be_read_is_left_out_on_request(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n{\n{"text": 7}\n{"text": "\xff"}\n{"text": "b"}\n')
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(50_000)), mtime=0)
    (tmp_path / "y.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    left_out = LeftOut("skip")
    assert read(tmp_path / "x.jsonl", left_out) == ["a", "b"]
    before_the_damage = read(tmp_path / "y.jsonl.gz", left_out)
    assert before_the_damage == [str(n) for n in range(len(before_the_damage))]
    assert len(before_the_damage) > 10_000
    assert left_out.counts == {"unreadable_documents": 3, "unreadable_files": 1}
    assert [message.split(": ")[0].rpartition("/")[2] for message in left_out.unreadable[:3]] == [
        "x.jsonl:2", "x.jsonl:3", "x.jsonl:4",
    ]  # fmt: skip
    assert "y.jsonl.gz:" in left_out.unreadable[3]


NESTED = {"doc": {"text": "inner", "parts": ["a", "b"], "none": None}, "doc.id": 7, "meta": None}


@pytest.mark.parametrize(
    ("record", "field", "text"),
    [
        (NESTED, "doc.text", "inner"),
        ({**NESTED, "doc.text": "literal"}, "doc.text", "literal"),
        ({"a.b": {"c": "x"}}, "a.b.c", "x"),
        ({"a": 1, "a.b": "x"}, "a.b", "x"),
        (NESTED, "doc.none", None),
        (NESTED, "meta.text", None),
    ],
)
@pytest.mark.parametrize("file_format", ["jsonl", "json", "parquet"])
def test_fields_of_objects(tmp_path, record, field, text, file_format):
    path = tmp_path / f"x.{file_format}"
    write_record(path, record)
    if file_format == "parquet" and field == "meta.text":
        with pytest.raises(
            ValueError, match=r"has no column 'meta\.text'; columns: doc, doc\.text, doc\.parts"
        ):
            read(path, text_field=field)
        return
    left_out = LeftOut()
    assert read(path, left_out, text_field=field) == ([] if text is None else [text])
    assert left_out.counts == ({"null": 1} if text is None else {})


def write_record(path, record):
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    else:
        path.write_text(json.dumps([record]) if path.suffix == ".json" else json.dumps(record))


@pytest.mark.parametrize("file_format", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("doc", r"must be a string, is an object with the fields text, .*name one of them, such as doc\.text"),
        ("doc.parts", "must be a string, is a list of 2 values; join them into one string"),
        ("doc.id", "must be a string, is int"),
        ("doc.nothing", r"has no (field|column) 'doc\.nothing'; (fields|columns): doc, .* with --text-field"),
    ],
)  # fmt: skip
def test_fields_that_are_no_text(tmp_path, file_format, field, problem):
    write_record(tmp_path / f"x.{file_format}", NESTED)
    with pytest.raises(ValueError, match=problem):
        read(tmp_path / f"x.{file_format}", text_field=field)


def test_errors_are_one_line_of_bounded_length(tmp_path):
    row = json.dumps({f"a\nb\u2028{n}" * 50: n for n in range(500)}).encode()
    (tmp_path / "x.jsonl").write_bytes(row)
    with pytest.raises(ValueError, match=r"and 480 more; choose|\.\.\.$") as caught:
        read(tmp_path / "x.jsonl")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1_100
