import pytest

from data_prep.inputs.conditions import parse_conditions
from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import run_tokenize


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("x=en", "en", True), ("x=en", "de", False), ("x!=en", "de", True), ("x!=en", "en", False),
        ("x=3", 3, True), ("x=3", 3.0, True), ("x=3", "3", True), ("x=3.0", 3, True), ("x=3", 4, False),
        ("x=true", True, True), ("x=false", True, False), ("x=1", True, False), ("x!=true", False, True),
        ("x>=3", 3, True), ("x>=3", 2.9, False), ("x<3", "2.5", True), ("x<=3", 4, False), ("x>-1", 0, True),
        ("x=", "", True), ("x=a=b", "a=b", True), ("x=null", None, False), ("x!=a", None, False),
    ],
)  # fmt: skip
def test_conditions(condition, value, holds):
    ((parsed,),) = parse_conditions([condition], ["web"]).values()
    assert parsed.holds({"x": value}) is holds


def test_conditions_of_sources():
    conditions = parse_conditions(["a>1", "web:b=x:y", "web:c<2"], ["web", "code"])
    assert [c.field for c in conditions["web"]] == ["a", "b", "c"]
    assert conditions["web"][1].value == "x:y"
    assert [c.field for c in conditions["code"]] == ["a"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("language", "where: 'language' must be [SOURCE:]FIELD=VALUE"),
        ("=en", "where: '=en' must be"),
        ("books:x=1", "where: no source is named 'books'; sources: web"),
        ("x>=three", "where: 'x>=three': the value of >= must be a number, is 'three'"),
        ("y=1", "x.csv: has no column 'y'; columns: text, x; choose with --where"),
        ("text>1", "x.csv, row 1: field 'text' must be a number for --where '>', is 'a'"),
    ],
)
def test_condition_errors_are_one_line(tokenizer_folder, tmp_path, capsys, condition, message):
    (tmp_path / "x.csv").write_text("text,x\na,1\n")
    options = ("--workers", "1", "--where", condition)
    assert run_tokenize(tmp_path / "store", tokenizer_folder, "web=x.csv", options=options) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


def test_filtered_documents_are_counted(tokenizer_folder, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("text,x,y\n" + "".join(f"text {n},{n},{n % 2}\n" for n in range(10)))
    options = ("--workers", "1", "--valid-fraction", "0", "--where", "x>=4", "--where", "web:y=0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, "web=x.csv", "b=x.csv", options=options) == 0
    manifest = load_manifest(tmp_path / "store")
    assert manifest.left_out == {"web": {"filtered": 7}, "b": {"filtered": 4}}
    assert manifest.sources["web"]["train"].num_documents == 3
    assert "--where 'x>=4' --where web:y=0" in manifest.command
    assert "web: left out 7 filtered" in capsys.readouterr().out
