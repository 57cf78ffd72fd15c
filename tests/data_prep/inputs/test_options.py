"""The options about inputs, from the command line to the manifest."""

import json

import pytest

from data_prep.cli import main
from data_prep.inputs.reading import values_by_source
from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import numbered_texts, run_tokenize, stored_texts, write_json_lines


def test_every_source_is_read_in_its_own_way(tokenizer_folder, tmp_path, capsys):
    write_json_lines(tmp_path / "a.jsonl", ["of a"], field="body")
    (tmp_path / "b, c.txt").write_bytes("été\n---\nhiver".encode("latin-1"))
    (tmp_path / "c.csv").write_text("id=n\n1\n\n\n")
    (tmp_path / "d.csv").write_text("n;doc.text\n1;of d, and more\n2;\n")
    inputs = ("a=a.jsonl", "b=b\\, c.txt", "c=c.csv", "d=d.csv")
    options = (
        *("--workers", "1", "--valid-fraction", "0", "--text-field", "text", "a=body", "c=id=n"),
        *(
            "--text-field",
            "d=doc.text",
            "--documents",
            "b=\\n---\\n",
            "--encoding",
            "b=latin-1",
            "--delimiter",
            "d=;",
        ),
    )
    assert run_tokenize(tmp_path / "store", tokenizer_folder, *inputs, options=options) == 0
    texts = [stored_texts(tmp_path / "store", source) for source in "abcd"]
    assert texts == [["of a"], ["été", "hiver"], ["1"], ["of d, and more"]]
    manifest = load_manifest(tmp_path / "store")
    assert manifest.left_out["d"] == {"empty": 1}
    assert "--encoding b=latin-1 --delimiter 'd=;'" in manifest.command
    capsys.readouterr()


@pytest.mark.parametrize(
    ("texts", "documents", "warning"),
    [
        (
            ["the cat sat"],
            "file",
            "warning: source web is a single document of about 11 characters; if its .txt files",
        ),
        (["the cat sat " * 1_000, "a"], "line", "warning: source web has a document of about 1"),
        (["the cat sat", "a"], "line", None),
    ],
)
def test_what_may_be_several_documents_is_remarked_on(
    tokenizer_folder, tmp_path, capsys, monkeypatch, texts, documents, warning
):
    monkeypatch.setattr("data_prep.report.LONG_CHARACTERS", 10_000)
    (tmp_path / "x.txt").write_text("\n".join(texts))
    options = ("--workers", "1", "--valid-fraction", "0", "--documents", documents)
    assert run_tokenize(tmp_path / "store", tokenizer_folder, "web=x.txt", options=options) == 0
    for command in (None, ["inspect", str(tmp_path / "store")]):
        if command:
            assert main(command) == 0
        found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
        assert [line[: len(warning or "")] for line in found] == ([] if warning is None else [warning])


def test_what_a_folder_leaves_out_is_in_the_manifest(tokenizer_folder, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "B.TXT", "._a.txt", "README.md"):
        (folder / name).write_text(f"text of {name}")
    options = ("--workers", "1", "--valid-fraction", "0")
    assert run_tokenize(tmp_path / "store", tokenizer_folder, "web=folder", options=options) == 0
    captured = capsys.readouterr()
    expected = "; left out 1 hidden files (._a.txt); left out 1 other files (README.md)"
    assert next(line for line in captured.err.splitlines() if line.startswith("web: 2 .txt")).endswith(
        expected
    )
    assert "web: left out 1 hidden files, 1 other files" in captured.out
    assert load_manifest(tmp_path / "store").left_out == {"web": {"hidden_files": 1, "other_files": 1}}
    write_json_lines(folder / "part.jsonl.gz", ["x"])
    assert run_tokenize(tmp_path / "other", tokenizer_folder, "web=folder") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: input: folder holds files of several formats: 2 .txt, 1 .jsonl.gz; "
        "name those to take, such as 'folder/**/*.txt'"
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 0, "web: left out 1 empty, 1 null"),
        (("--on-bad-row", "skip"), 0, "web: left out 1 empty, 1 null"),
        (("--on-bad-row", "stop"), 2, "error: x.jsonl:2: field 'text' is null"),
    ],
)
def test_null_and_empty_texts(tokenizer_folder, tmp_path, capsys, options, code, message):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": ""}\n')
    options = ("--workers", "1", "--valid-fraction", "0", *options)
    assert run_tokenize(tmp_path / "store", tokenizer_folder, "web=x.jsonl", options=options) == code
    assert message in "".join(capsys.readouterr())


def test_a_tokenizer_is_trained_on_the_same_inputs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_prep.inputs.long_text.LONG_CHARACTERS", 1_000)
    (tmp_path / "x.txt").write_text("\n".join(numbered_texts(100)))
    (tmp_path / "x.jsonl").write_text(json.dumps({"doc": {"text": "the cat"}}) + '\n{"doc": null}\n{\n')
    for documents, count in (("file", 1), ("line", 100)):
        command = [
            "tokenizer",
            str(tmp_path / documents),
            "--input",
            str(tmp_path / "x.txt"),
            "--vocab-size",
            "300",
        ]
        assert main([*command, "--documents", documents]) == 0
        assert f"trained on {count} documents" in capsys.readouterr().out
    command = ["tokenizer", str(tmp_path / "t"), "--input", str(tmp_path / "x.jsonl"), "--vocab-size", "300"]
    assert main([*command, "--text-field", "doc.text"]) == 2
    assert "x.jsonl:3: broken JSON" in capsys.readouterr().err
    assert main([*command, "--text-field", "doc.text", "--on-bad-row", "skip"]) == 0
    captured = capsys.readouterr()
    assert "left out 1 null, 1 unreadable documents" in captured.out
    assert "left out: " in captured.err


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], {"a": None, "b": None}),
        (["x"], {"a": "x", "b": "x"}),
        (["a=x", "y", "b=z=1"], {"a": "x", "b": "z=1"}),
        (["===", "a=="], {"a": "=", "b": "==="}),
    ],
)
def test_values_by_source(values, found):
    assert values_by_source(values, ["a", "b"], "documents") == found
