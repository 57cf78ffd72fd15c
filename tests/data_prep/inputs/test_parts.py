import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.inputs.files import resolve_inputs
from data_prep.inputs.parts import plan_parts, stat_input
from data_prep.inputs.readers import read_texts
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Span
from tests.helpers.texts import TRICKY_TEXTS, numbered_texts, write_json_lines


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("data_prep.inputs.parts.MIN_PART_BYTES", 1_000)


def parts_of(*patterns, reading=None):
    items = resolve_inputs(map(str, patterns)).items
    return plan_parts({"web": [stat_input(item) for item in items]}, {"web": reading or Reading()})


def texts_of(parts, reading=None):
    return [text for part in parts for span in part.spans for text in read_texts(span, reading)]


@given(data=st.lists(st.sampled_from([b'{"text":"a"}', b"  ", b'{"text":"' + b"b" * 40 + b'"}', b""])))
@settings(max_examples=50, deadline=None)
def test_byte_ranges_give_every_line_once(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("lines") / "x.jsonl"
    for mark, end in ((b"", b""), (b"", b"\n"), (b"\xef\xbb\xbf", b"")):
        file.write_bytes(mark + b"\n".join(data) + end)
        whole = list(read_texts(Span(str(file))))
        size = file.stat().st_size
        for step in (1, 2, 7, 13, 52):
            spans = [Span(str(file), first, first + step) for first in range(0, size, step)]
            assert [text for span in spans for text in read_texts(span)] == whole


def test_a_large_file_is_cut_where_its_format_allows(tmp_path, small_parts):
    texts = [*TRICKY_TEXTS, *numbered_texts(200)]
    lines = write_json_lines(tmp_path / "x.jsonl", texts)
    packed = write_json_lines(tmp_path / "x.jsonl.gz", texts)
    table = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), table, row_group_size=20)
    saved = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(saved)
    for path, least in ((lines, 8), (packed, 1), (table, 5), (saved, 5)):
        parts = parts_of(path)
        assert len(parts) >= least
        assert texts_of(parts) == texts
        assert path != lines or max(part.num_bytes for part in parts) <= 1_000
    assert len(parts_of(packed)) == 1


def test_lines_of_text_are_cut_if_they_are_plain_utf8(tmp_path, small_parts):
    texts = [text for text in numbered_texts(200) if "\n" not in text]
    by_line = Reading(documents="line")
    for encoding, reading, least in (
        ("utf-8", by_line, 8),
        ("utf-8-sig", by_line, 8),
        ("utf-16", by_line, 1),
        ("latin-1", Reading(documents="line", encoding="latin-1"), 1),
        ("utf-8", Reading(documents="blank-line"), 1),
    ):
        between = "\n\n" if reading.documents == "blank-line" else "\n"
        (tmp_path / "x.txt").write_bytes(between.join(texts).encode(encoding))
        parts = parts_of(tmp_path / "x.txt", reading=reading)
        assert len(parts) >= least
        assert least > 1 or len(parts) == 1
        assert texts_of(parts, reading) == texts


def test_hub_datasets_are_cut_by_files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        pyarrow.parquet.write_table(
            pyarrow.table({"text": [f"{number} {text}" for text in TRICKY_TEXTS]}),
            folder / f"train-{number:05d}-of-00003.parquet",
        )
    parts = parts_of(f"hf:{folder}")
    assert len(parts) == 3
    assert texts_of(parts) == [f"{number} {text}" for number in range(3) for text in TRICKY_TEXTS]
    with pytest.raises(ValueError, match=r"file 1, row 1: has no field 'body'"):
        list(read_texts(parts[1].spans[0], Reading("body")))


def test_small_files_make_a_part_together(tmp_path, small_parts):
    for number in range(40):
        (tmp_path / f"{number:02d}.txt").write_text(f"{number} " + "x" * 100)
    parts = parts_of(tmp_path)
    assert [len(part.spans) for part in parts] == [10, 10, 10, 10]
    assert texts_of(parts) == [f"{number} " + "x" * 100 for number in range(40)]


def test_parts_belong_to_one_source_and_keep_the_order(tmp_path, small_parts):
    a, b = (write_json_lines(tmp_path / f"{name}.jsonl", [name]) for name in "ab")
    inputs = {"two": [stat_input(str(b))], "one": [stat_input(str(a)), stat_input(str(b))]}
    parts = plan_parts(inputs, dict.fromkeys(inputs, Reading()))
    assert [(part.source, [span.item for span in part.spans]) for part in parts] == [
        ("two", [str(b)]),
        ("one", [str(a), str(b)]),
    ]


def test_a_bad_line_in_the_middle_of_a_file_has_its_number(tmp_path, small_parts):
    lines = [json.dumps({"text": text}) for text in numbered_texts(100)]
    lines[70] = "{"
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(lines))
    parts = parts_of(file)
    assert len(parts) > 3
    with pytest.raises(ValueError, match=r"x\.jsonl:71: broken JSON"):
        texts_of(parts)
