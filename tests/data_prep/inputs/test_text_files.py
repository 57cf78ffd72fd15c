import pytest

from data_prep.inputs import lines, long_text, text_files
from data_prep.inputs.long_text import LongText
from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.rows import Span
from tests.helpers.inputs import COMPRESS, read


@pytest.mark.parametrize(
    ("documents", "content", "texts"),
    [
        ("line", "a\r\n\r\n b \nc\u2028d", ["a", " b ", "c\u2028d"]),
        ("blank-line", "\n\na\nb\r\n \t\r\nc\n\n\nd\n", ["a\nb", "c", "d"]),
        ("<|end|>", "a<|end|>b\nc<|end|>\n\n<|end|>\nd\n", ["a", "b\nc", "d"]),
        ("\n---\n", "a\n---\n\nb---\n---\nc", ["a", "b---", "c"]),
        ("line", "", []),
        ("blank-line", "\n", []),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_documents_of_a_text_file(tmp_path, monkeypatch, documents, content, texts, chunk):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk)
    for compression, compress in COMPRESS.items():
        path = tmp_path / f"x.txt{compression}"
        path.write_bytes(compress(content.encode()))
        assert read(path, documents=documents) == texts


@pytest.mark.parametrize(
    ("documents", "place"), [("line", r":3"), ("blank-line", ", document 2"), ("--", ", document 2")]
)
def test_bad_documents_are_named_and_passed_over(tmp_path, monkeypatch, documents, place):
    for module in (lines, text_files):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 50)
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 20)
    between = "\n--\n" if documents == "--" else "\n\n"
    for bad, problem in ((b"b\xffb", "invalid UTF-8"), (b"b" * 500, "is longer than 64 MB")):
        (tmp_path / "x.txt").write_bytes(between.encode().join([b"a", bad, b"c"]))
        with pytest.raises(ValueError, match=rf"x\.txt{place}: {problem}"):
            read(tmp_path / "x.txt", documents=documents)
        left_out = LeftOut("skip")
        assert read(tmp_path / "x.txt", left_out, documents=documents) == ["a", "c"]
        assert left_out.counts == {"unreadable_documents": 1}


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_long_file_is_read_in_pieces(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(long_text, "LONG_CHARACTERS", 100)
    monkeypatch.setattr(long_text, "PIECE_BYTES", 64)
    text = "é漢🤖 x\r\n" * 100
    path = tmp_path / f"x.txt{compression}"
    path.write_bytes(COMPRESS[compression](text.encode()))
    (found,) = read_texts(Span(str(path)))
    assert isinstance(found, LongText)
    assert len(found) == len(text)
    assert len(list(found)) > 10
    assert "".join(found) == "".join(found) == text
    path.write_bytes(COMPRESS[compression](text.encode() + b"\xff"))
    with pytest.raises(
        ValueError, match=rf"x\.txt.*invalid UTF-8 \(invalid start byte, byte {len(text.encode())}\)"
    ):
        read(path)
