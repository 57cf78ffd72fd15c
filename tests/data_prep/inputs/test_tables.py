import pyarrow
import pyarrow.parquet
import pytest

from data_prep.inputs import tables
from data_prep.inputs.conditions import parse_conditions
from data_prep.inputs.readers import LeftOut
from tests.helpers.inputs import read
from tests.helpers.texts import TRICKY_TEXTS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id,text\n1,a\n2\n", r"x\.csv, row 2: has 1 fields, but the header has 2; repair the row"),
        (b"id,text\n1,a\n2,b,c\n", r"x\.csv, row 2: has 3 fields, but the header has 2; repair the row"),
        (b"id,body\n1,a\n", r"x\.csv: has no column 'text'; columns: id, body; choose with --text-field"),
        (
            b"id;text\n1;a\n",
            r"x\.csv: has no column 'text'; columns: id;text; it looks separated by ';': pass ",
        ),
        (b"id\ttext\n1\ta\n", r"it looks separated by '\\t': pass --delimiter '\\t'"),
        (b'"id";"text"\n', r"x\.csv: the header cannot be read \(.*\); it looks separated by ';'"),
        (
            b'id,text\n1,"a\n',
            r"x\.csv, row 1: cannot be read \(unexpected end of data; is a quotation mark missing",
        ),
        (b'id,text\n1,a\n2,"b" c\n3,d\n', r"x\.csv, row 2: ',' expected after '\"'; repair the row"),
        (b"id,text\n1,a\n2,b\xff\n", r"x\.csv, row 2: field 'text' holds a byte that is not UTF-8"),
        (b"text,lang,text\na,en,\n", r"x\.csv: has 2 columns named 'text'; rename or remove all but one"),
        (b"text,n,n\na,1,2\n", r"x\.csv: has 2 columns named 'n'"),
    ],
)
def test_bad_csv_is_named(tmp_path, data, message):
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.csv")
    left_out = LeftOut("skip")
    assert read(tmp_path / "x.csv", left_out) in ([], ["a"], ["a", "d"])
    assert left_out.counts.total() == 1


def test_other_delimiters(tmp_path):
    (tmp_path / "x.csv").write_text("id;text\n1;a, b\n")
    (tmp_path / "x.tsv").write_text("id\ttext\n1\ta, b\n")
    assert read(tmp_path / "x.csv", delimiter=";") == read(tmp_path / "x.tsv") == ["a, b"]


def test_bytes_that_are_not_read_do_not_matter(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,text,,\n\xff,a,,\n")
    assert read(tmp_path / "x.csv") == ["a"]


def test_csv_of_long_fields_and_empty_lines(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("text\r\n" + "x" * 200_000 + "\r\n\r\ny\r\n", newline="")
    assert read(tmp_path / "x.csv") == ["x" * 200_000, "y"]
    (tmp_path / "x.csv").touch()
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 1_000)
    with pytest.raises(ValueError, match=r"x\.csv, row 1: cannot be read \(a line is longer than 64 MB"):
        read(tmp_path / "x.csv")


def test_parquet(tmp_path, monkeypatch):
    table = pyarrow.table({"text": TRICKY_TEXTS, "n": range(len(TRICKY_TEXTS))})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    assert read(tmp_path / "x.parquet") == TRICKY_TEXTS
    monkeypatch.setattr(tables, "BATCH_BYTES", 1)
    assert read(tmp_path / "x.parquet") == TRICKY_TEXTS


@pytest.mark.parametrize(
    "kind", [pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), "string")]
)
def test_parquet_types_that_hold_text(tmp_path, kind):
    column = pyarrow.array(TRICKY_TEXTS).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == TRICKY_TEXTS


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    left_out = LeftOut()
    assert read(path, left_out) == ["a"]
    assert left_out.counts == {"null": 1}
    with pytest.raises(
        ValueError, match=r"x\.parquet: has no column 'body'; columns: text; choose with --text"
    ):
        read(path, text_field="body")
    invalid = pyarrow.array([b"a", b"\xff"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": invalid}), path)
    with pytest.raises(ValueError, match=r"x\.parquet, row 2: 'utf-8' codec can't decode byte 0xff"):
        read(path)
    assert read(path, LeftOut("skip")) == ["a"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"x\.parquet, row 1: cannot be read"):
        read(path)


@pytest.mark.parametrize("column", ["text", "n"])
def test_parquet_with_a_column_twice(tmp_path, column):
    table = pyarrow.table([["a"], ["1"], ["2"]], names=["text" if column != "text" else "n", column, column])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=rf"x\.parquet: has 2 columns named '{column}'"):
        read(tmp_path / "x.parquet")
    struct = pyarrow.StructArray.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["t", "t"])
    pyarrow.parquet.write_table(pyarrow.table({"doc": struct}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: has 2 fields named 't'"):
        read(tmp_path / "x.parquet", text_field="doc.t")


def test_conditions_on_fields_of_structs(tmp_path):
    rows = [
        {"text": "a", "meta": {"lang": "en", "n": 1}},
        {"text": "b", "meta": None},
        {"text": "c", "meta": {"lang": "de", "n": 2}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    for text, kept in (("meta.lang=en", ["a"]), ("meta.n>=2", ["c"])):
        conditions = tuple(parse_conditions([text], ["web"])["web"])
        assert read(tmp_path / "x.parquet", conditions=conditions) == kept
