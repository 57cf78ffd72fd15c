"""What the commands say about their inputs before they read them."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.cli import main
from data_prep.inputs.files import resolve_inputs
from data_prep.inputs.first_look import look_at
from data_prep.inputs.reading import Reading
from tests.helpers.texts import run_tokenize, write_json_lines

LINES = "an article of some words, all in one line\n" * 1_000
HINT = ", each read as one document (one per line: --documents line)"


@pytest.mark.parametrize(
    ("text", "documents", "hint", "warns"),
    [
        (LINES, None, HINT, True),
        (LINES, "file", "", False),
        (LINES, "line", "", False),
        ("short\n" * 200, None, HINT, False),
        ("long paragraph " * 10_000, None, HINT, False),
    ],
)
def test_lines_that_may_be_documents(tmp_path, capsys, text, documents, hint, warns):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(text)
    look_at("web", resolve_inputs([str(tmp_path)]), Reading(documents=documents), None)
    first, *warnings = capsys.readouterr().err.splitlines()
    assert first == f"web: 3 .txt{hint}"
    expected = "warning: web: the .txt files have about 1,000 lines each or more, and each file "
    assert [line[: len(expected)] for line in warnings] == [expected] * warns


def test_both_commands_take_a_first_look(tokenizer_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(LINES)
    assert main(["tokenizer", "new", "--input", "a.txt", "--vocab-size", "300"]) == 0
    assert f"input: 1 .txt{HINT}\nwarning: input: the .txt files have" in capsys.readouterr().err
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, "web=a.txt", options=options) == 0
    assert f"web: 1 .txt{HINT}\nwarning: web: the .txt files have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "pattern", "remedy"),
    [
        (("part-1.txt", "part-2.txt", "README.TXT"), "in/*", "README.TXT: leave it out with 'in/part-*.txt'"),
        (("a.txt", "b.txt", "LICENSE-MIT.txt.gz"), "in", "LICENSE-MIT.txt.gz: leave it out with 'in/*.txt'"),
        (("x/p1.txt", "y/p2.txt", "robots.txt"), "in", "robots.txt: leave it out with 'in/**/p*.txt'"),
        (("a.txt", "b.txt", "notice.txt"), "in", "notice.txt: if it is no document, move it to another folder"),
        (("a.txt", "readme.txt"), "in/readme.txt", None),
        (("source-1.txt", "source-2.txt"), "in", None),
        (("a.txt", "sourdough.txt", "source1.txt"), "in", None),
        (("a.jsonl", "readme.jsonl"), "in", None),
    ],
)  # fmt: skip
def test_a_readme_among_texts_is_named(tmp_path, capsys, monkeypatch, names, pattern, remedy):
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("text")
    look_at("web", resolve_inputs([pattern]), Reading(), None)
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert found == (
        [] if remedy is None else [f"warning: web: {remedy.replace(': ', ' is read as text; ', 1)}"]
    )
    if remedy and "'" in remedy:
        taken = resolve_inputs([remedy.split("'")[1]]).items
        assert taken == [f"in/{name}" for name in names[:2]]


def test_the_columns_of_a_table_are_checked_before_anything_is_read(
    tokenizer_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_json_lines(tmp_path / "a.jsonl", ["text"])
    (tmp_path / "b.csv").write_text("id;body\n1;text\n")
    inputs = ("a=a.jsonl", "b=b.csv")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, *inputs) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: b.csv: has no column 'text'")
    assert error.endswith("pass --delimiter ';'")
    assert not (tmp_path / "store").exists()
    options = ("--workers", "1", "--valid-fraction", "0", "--delimiter", "b=;", "--text-field", "b=body")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, *inputs, options=options) == 0


ROWS = [{"title": f"Title {number}", "id": number, "body": "a body " * 100} for number in range(150)]


def write_rows(folder, ending):
    path = folder / f"rows{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif ending == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_a_longer_field_is_probably_the_text(tmp_path, capsys, ending):
    found = resolve_inputs([str(write_rows(tmp_path, ending))])
    look_at("web", found, Reading(text_field="body"), None)
    assert "warning" not in capsys.readouterr().err
    look_at("web", found, Reading(text_field="title"), None)
    assert (
        "warning: web: the text is read from 'title', with 8 characters on average in the first 100 rows; 'body' has "
        "700: if that is the text, pass --text-field body\n"
    ) in capsys.readouterr().err
