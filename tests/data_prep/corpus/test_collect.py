import gzip
import json
from itertools import islice

import pytest

from data_prep.cli import main
from data_prep.corpus import collect as collecting
from data_prep.corpus.collect import collect
from data_prep.corpus.python_texts import code_texts, docstrings_of, plain_text, prose_texts, science_texts

LONG = "word " * 100


def read(file):
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_three_sources_of_the_asked_size_always_the_same(tmp_path, capsys):
    for name in "ab":
        assert main(["corpus", str(tmp_path / name), "--megabytes", "0.1"]) == 0
    out = capsys.readouterr().out
    for source in ("prose", "code", "science"):
        file = tmp_path / "a" / f"{source}.jsonl.gz"
        assert file.read_bytes() == (tmp_path / "b" / f"{source}.jsonl.gz").read_bytes()
        rows = read(file)
        assert {row["source"] for row in rows} == {source}
        assert len({row["id"] for row in rows}) == len(rows) > 1
        sizes = [len(row["text"].encode()) for row in rows]
        assert sum(sizes) >= 100_000 > sum(sizes) - max(sizes)
        row = next(line for line in out.splitlines() if line.startswith(source))
        assert row.split()[1] == str(len(rows))


def test_the_sources_are_what_they_are_called():
    name, topic = next(prose_texts())
    assert name == "topic/assert"
    assert "Assert statements are a convenient way" in topic
    name, code = next(code_texts())
    compile(code, name, "exec")
    packages = {name.partition("/")[0] for name, _ in islice(science_texts(), 100)}
    assert {"numpy", "torch", "sympy"} <= packages


def test_duplicates_stubs_and_unreadable_files_are_left_out_and_counted():
    licence = "Copyright (c) 2020 A\n" + LONG
    texts = [
        ("a", licence),
        ("b", "  COPYRIGHT 2024 B, C\n" + LONG.upper()),
        ("c", "stub"),
        ("d", None),
        ("e", "other " * 100),
        ("f", "never reached " * 100),
    ]
    collected = collect(texts, max_bytes=len(licence) + 1)
    assert sorted(collected.documents) == [("a", licence), ("e", "other " * 100)]
    assert (collected.num_duplicates, collected.num_unreadable) == (1, 1)
    assert collected.num_bytes == len(licence) + 600


def test_docstrings_stand_under_their_names():
    source = '''
"""Of the module."""
def f():
    """Of f."""
    def inner():
        """Of inner."""
class C:
    """Of C."""
    async def method(self):
        """Of the method.

            More.
        """
    def bare(self): ...
'''
    assert docstrings_of(source, "module").split("\n\n\n") == [
        "module\n\nOf the module.",
        "f\n\nOf f.",
        "inner\n\nOf inner.",
        "C\n\nOf C.",
        "C.method\n\nOf the method.\n\nMore.",
    ]


def test_source_that_cannot_be_parsed_has_no_docstrings():
    assert docstrings_of("x = (", "module") is None
    assert docstrings_of("x = '\\d'", "module") == ""  # without a warning about the escape


def test_manual_pages_lose_their_markup():
    markup = "<p>A &lt;b&gt;  <code>x</code>\n y.</p><ul><li><p>Item</p></li></ul><pre>kept</pre>"
    assert plain_text(markup) == "A <b> x\ny.\nItem\nkept"


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_size_must_be_positive(tmp_path, capsys, size):
    assert main(["corpus", str(tmp_path), "--megabytes", size]) == 2
    assert "must be greater than 0" in capsys.readouterr().err


def test_an_installation_without_texts_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(collecting, "prose_texts", lambda: iter([]))
    assert main(["corpus", str(tmp_path)]) == 2
    assert "corpus: found no prose in this Python installation" in capsys.readouterr().err
