import json

import pytest

from data_prep.inputs import json_rows, lines
from data_prep.inputs.readers import LeftOut
from tests.helpers.inputs import COMPRESS, read
from tests.helpers.texts import TRICKY_TEXTS


def test_blank_lines_and_a_byte_order_mark_are_no_documents(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert read(tmp_path / "x.jsonl") == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', r"x\.jsonl:3: broken JSON \(Expecting ',' delimiter, column \d+\)"),
        (b"text", r"x\.jsonl:3: broken JSON \(Expecting value, column 1\)"),
        (b"[", r"x\.jsonl:3: broken JSON .*name the file \.json"),
        (b'{"text": "a b \xff"}', r"x\.jsonl:3: invalid UTF-8 \(invalid start byte, byte 14\); it looks like Latin-1"),
        (b'{"text": "\\ud800"}', r"x\.jsonl:3: field 'text' holds .* a lone surrogate \('\\ud800', character 0\)"),
        (
            b'{"body": "a", "id": 1}',
            r"x\.jsonl:3: has no field 'text'; fields: body, id; choose one with --text-field",
        ),
        (b"{}", r"x\.jsonl:3: has no field 'text'; fields: none"),
        (b'{"text": 7}', r"x\.jsonl:3: field 'text' must be a string, is int"),
        (b'["text"]', r"x\.jsonl:3: must be an object with a field 'text', is a list"),
        (b'{"text": "a", "text": "b"}', r"x\.jsonl:3: has 2 fields named 'text'; rename or remove all but one"),
        (b'{"text": "a", "te\\u0078t": "b"}', r"x\.jsonl:3: has 2 fields named 'text'"),
        (b'{"text": "a", "id": 1, "id": 2}', r"x\.jsonl:3: has 2 fields named 'id'"),
        (b'{"text": ' + b"[" * 100_000, r"x\.jsonl:3: broken JSON \(nested too deeply\)"),
        (b'{"text": ' + b"9" * 5_000 + b"}", r"x\.jsonl:3: Exceeds the limit"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}')
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.jsonl")
    left_out = LeftOut("skip")
    assert read(tmp_path / "x.jsonl", left_out) == ["a", "b"]
    assert left_out.counts == {"unreadable_documents": 1}


def test_a_name_twice_matters_on_the_path_that_is_read(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"a": {"b": "x", "b": "y"}, "c": {"d": 1, "d": 2, "e": "z"}, "text": "t"}'
    )
    assert read(tmp_path / "x.jsonl") == ["t"]
    for field, name in (("a.b", "b"), ("c.e", "d")):
        with pytest.raises(ValueError, match=rf"x\.jsonl:1: has 2 fields named '{name}'"):
            read(tmp_path / "x.jsonl", text_field=field)


@pytest.mark.parametrize(
    "layout",
    [
        "array",
        "compact array",
        "lines",
        "values over lines",
        "one value",
        "broken first line",
        "empty",
        "[ ]",
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_layouts_of_json(tmp_path, monkeypatch, layout, chunk):
    monkeypatch.setattr(json_rows, "CHUNK_CHARACTERS", chunk)
    records = [{"text": text, "meta": {"id": number}} for number, text in enumerate(TRICKY_TEXTS)]
    content, texts = {
        "array": (json.dumps(records, indent=2), TRICKY_TEXTS),
        "compact array": (" \n" + json.dumps(records, separators=(",", ":")) + "\n", TRICKY_TEXTS),
        "lines": ("\n".join(map(json.dumps, records)), TRICKY_TEXTS),
        "values over lines": ("\n".join(json.dumps(record, indent=1) for record in records), TRICKY_TEXTS),
        "one value": (json.dumps(records[0], indent=1), TRICKY_TEXTS[:1]),
        "broken first line": ("{\n" + "\n".join(map(json.dumps, records)), TRICKY_TEXTS),
        "empty": ("", []),
        "[ ]": ("[\n]", []),
    }[layout]
    for compression, compress in COMPRESS.items():
        (tmp_path / f"x.json{compression}").write_bytes(compress(content.encode()))
        assert read(tmp_path / f"x.json{compression}", LeftOut("skip")) == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}', r"x\.json, row 2: cannot be read \(broken JSON: the array does not end\)"),
        ('[{"text": "a"} {"text": "b"}]', r"row 2: cannot be read \(broken JSON: expected ',' or '\]', found '{'\)"),
        ('[{"text": "a"}, ]', r"row 3: cannot be read \(broken JSON: Expecting value\)|row 2: cannot be read"),
        ('[{"text": "a"}] x', r"row 2: cannot be read \(broken JSON: found 'x' after the last value\)"),
        ('[{"text": "a"}, {"text": tru', r"row 2: cannot be read \(broken JSON: Expecting value"),
        ('[{"text": "a"}, {"text": "a", "text": "b"}]', r"x\.json, row 2: has 2 fields named 'text'"),
        ('[{"text": "a"}, 7]', r"x\.json, row 2: must be an object with a field 'text', is a int"),
        ('[{"text": "a"}, ' + "[" * 100_000, r"x\.json, row 2: cannot be read \("),
        ('{\n"data": []}', r"x\.json, row 1: has no field 'text'; fields: data"),
    ],
)  # fmt: skip
def test_broken_json_files_are_named(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.json")
    assert read(tmp_path / "x.json", LeftOut("skip")) in (["a"], [])


def test_what_does_not_fit_into_memory_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(json_rows, "CHUNK_CHARACTERS", 50)
    rows = [{"text": "a"}, {"text": "b" * 1_000}, {"text": "c"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(
        ValueError, match=r"x\.jsonl:2: is longer than 64 MB; split it, or make it a \.txt file"
    ):
        read(tmp_path / "x.jsonl")
    assert read(tmp_path / "x.jsonl", LeftOut("skip")) == ["a", "c"]
    with pytest.raises(
        ValueError, match=r"x\.json, row 2: cannot be read \(.*or the value is longer than 64 MB"
    ):
        read(tmp_path / "x.json")
