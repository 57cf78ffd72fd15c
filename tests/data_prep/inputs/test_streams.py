import codecs

import pytest
import zstandard

from data_prep.inputs.readers import LeftOut
from data_prep.inputs.reading import make_reading
from tests.helpers.inputs import COMPRESS, encode_texts, read
from tests.helpers.texts import TRICKY_TEXTS

COMPRESSIONS = [compression for compression in COMPRESS if compression]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_several_members_with_zeros_between_them(tmp_path, compression):
    compress = COMPRESS[compression]
    members = [compress(encode_texts("jsonl", TRICKY_TEXTS[part:][:3])) for part in (0, 3, 6, 9)]
    path = tmp_path / f"x.jsonl{compression}"
    path.write_bytes(members[0] + b"\0" * 512 + compress(b"") + b"".join(members[1:]) + b"\0" * 8)
    assert read(path) == TRICKY_TEXTS
    path.write_bytes(b"")
    assert read(path) == []


@pytest.mark.parametrize("window_log", [10, 27, 28, 31])
def test_windows_of_zstandard(tmp_path, window_log):
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(encode_texts("jsonl", TRICKY_TEXTS)) + compressor.flush()
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    (tmp_path / "x.jsonl.zst").write_bytes(skippable + frame + skippable + frame)
    assert read(tmp_path / "x.jsonl.zst") == TRICKY_TEXTS * 2


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "damage", ["truncated", "garbage", "garbage after the end", "a broken second member"]
)
def test_damaged_compression_is_named(tmp_path, compression, damage):
    whole = COMPRESS[compression](
        encode_texts("jsonl", [f"{number} {hash(str(number))}" for number in range(9_000)])
    )
    data = {
        "truncated": whole[: len(whole) // 2],
        "garbage": b"garbage" * 100,
        "garbage after the end": whole + b"garbage",
        "a broken second member": whole + whole[:3] + b"x" + whole[4:],
    }[damage]
    path = tmp_path / f"x.jsonl{compression}"
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"x\.jsonl{compression}:\d+: cannot be read \(.*\); restore the file"
    ):
        read(path)
    left_out = LeftOut("skip")
    assert damage == "garbage" or len(read(path, left_out)) > 1_000


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("file_format", ["jsonl", "json", "csv", "tsv", "txt"])
def test_byte_order_marks(tmp_path, mark, encoding, file_format):
    texts = TRICKY_TEXTS if file_format != "txt" else TRICKY_TEXTS[:1]
    data = encode_texts(file_format, texts).decode().encode(encoding)
    for compression in ("", ".gz"):
        path = tmp_path / f"x.{file_format}{compression}"
        path.write_bytes(COMPRESS[compression](mark + data))
        for named in ("utf-8", "latin-1", encoding):
            assert read(path, encoding=named) == texts


@pytest.mark.parametrize("file_format", ["jsonl", "json", "csv", "tsv", "txt"])
@pytest.mark.parametrize(
    ("encoding", "hint"),
    [
        ("latin-1", "it looks like Latin-1: pass --encoding latin-1"),
        ("cp1252", "it looks like Windows-1252: pass --encoding cp1252"),
        ("utf-16-le", "it looks like UTF-16: pass --encoding utf-16-le"),
        ("gb18030", "name its encoding with --encoding|name the encoding"),
    ],
)
def test_other_encodings_are_named_and_read(tmp_path, file_format, encoding, hint):
    text = {"gb18030": "漢字漢字漢字", "cp1252": "“naïve” café", "utf-16-le": "ÿ naïve"}.get(
        encoding, "naïve café"
    )
    path = tmp_path / f"x.{file_format}"
    path.write_bytes(encode_texts(file_format, [text]).decode().encode(encoding))
    if file_format in ("jsonl", "txt") or encoding == "gb18030":
        with pytest.raises(ValueError, match=hint):
            read(path)
    else:
        with pytest.raises(ValueError, match=r"broken JSON|UTF-8|column"):
            read(path)
    assert read(path, encoding=encoding) == [text]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_file_without_its_ending(tmp_path, compression):
    (tmp_path / "x.txt").write_bytes(COMPRESS[compression](b"\xff" * 10))
    with pytest.raises(ValueError, match=f"it looks compressed: add {compression} to the name of the file"):
        read(tmp_path / "x.txt")


@pytest.mark.parametrize("name", ["nothing", "base64", "", "a\0b"])
def test_unknown_encodings(name):
    with pytest.raises(ValueError, match=r"encoding: .* is unknown; use a name that Python knows"):
        make_reading(None, None, name, None)
