"""Mutated files of every format give rows or errors of one line, never a traceback."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.inputs.conditions import Condition
from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Span
from tests.helpers.inputs import COMPRESS, encode_texts

TEXTS = ["plain words", 'a "quoted", text\n\nof two; lines', "é 漢字 🤖", "x" * 300, ""]
FORMATS = {
    f"{file_format}{compression}": COMPRESS[compression](encode_texts(file_format, TEXTS))
    for file_format in ("jsonl", "json", "csv", "tsv", "txt", "parquet")
    for compression in (COMPRESS if file_format != "parquet" else [""])
}
# what breaks readers: quotes, brackets, delimiters, invalid UTF-8, marks, extreme numbers
PIECES = [
    b'"', b"{", b"}", b"[" * 2_000, b"]", b",", b";", b"\t", b"\n", b"\r", b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800",
    b"\xef\xbb\xbf", b"\xff\xfe", b"null", b"NaN", b"9" * 5_000, b'"text": 1, ', b"--", b"\x1f\x8b",
    b"\xff\xff\xff\xff",
]  # fmt: skip
READINGS = [
    Reading(),
    Reading(documents="line"),
    Reading(documents="blank-line", encoding="utf-16"),
    Reading(documents="--", delimiter=";"),
    Reading("id", (Condition("text", ">", "1"),)),
    Reading("text.id", (Condition("id", "!=", "2"),), encoding="shift_jis"),
]
edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),  # where
        st.integers(0, 8) | st.integers(0, 10_000),  # number of bytes replaced
        st.sampled_from(PIECES) | st.binary(max_size=8),
    ),
    max_size=4,
)


def _mutate(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, num_bytes, piece in edits:
        at = int(place * (len(data) + 1))
        data = data[:at] + piece + data[at + num_bytes :]
    return data


def _read(path: Path, reading: Reading, left_out: LeftOut) -> tuple[list[str], str | None]:
    texts = []
    try:
        for text in read_texts(Span(str(path)), reading, left_out):
            texts.append("".join(text))
    except ValueError as error:
        return texts, str(error)
    return texts, None


@pytest.mark.parametrize(
    "num_examples", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3_000)])]
)
def test_mutated_files(tmp_path, num_examples):
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        name=st.sampled_from(sorted(FORMATS)),
        edits=edits,
        reading=st.sampled_from(READINGS),
        on_bad_row=st.sampled_from([None, "skip", "stop"]),
    )
    def check(name, edits, reading, on_bad_row):
        path = tmp_path / f"x.{name}"
        path.write_bytes(_mutate(FORMATS[name], edits))
        left_out = LeftOut(on_bad_row)
        texts, error = _read(path, reading, left_out)
        assert all(texts)
        assert error is None or on_bad_row != "skip", "what cannot be read is passed over on request"
        for message in (*left_out.unreadable, *([] if error is None else [error])):
            assert message.startswith(str(path))
            assert len(message.splitlines()) == 1
        outcomes["read" if error is None else "errors"] += 1

    check()
    print(dict(outcomes))
    assert min(outcomes["errors"], outcomes["read"]) > num_examples // 20
