"""Files of every format that `data_prep` reads."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Span

COMPRESS = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def read(path: Path | str, left_out: LeftOut | None = None, **options: object) -> list[str]:
    """Return the texts of a file, those of long documents joined."""
    texts = read_texts(Span(str(path)), Reading(**options), left_out)  # type: ignore[arg-type]
    return [text if isinstance(text, str) else "".join(text) for text in texts]


def encode_texts(file_format: str, texts: list[str]) -> bytes:
    """Return the content of a file of a format with a field `text`; of a .txt file with a document a line."""
    records = [{"id": number, "text": text} for number, text in enumerate(texts)]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    match file_format:
        case "jsonl" | "ndjson":
            return "".join(line + "\n" for line in lines).encode()
        case "json":
            return json.dumps(records, ensure_ascii=False, indent=1).encode()
        case "csv" | "tsv":
            file = io.StringIO(newline="")
            rows = csv.writer(file, delimiter="," if file_format == "csv" else "\t")
            rows.writerows([["id", "text"], *enumerate(texts)])
            return file.getvalue().encode()
        case "parquet":
            sink = io.BytesIO()
            table = pyarrow.table({"text": texts, "id": range(len(texts))})
            pyarrow.parquet.write_table(table, sink, row_group_size=3)
            return sink.getvalue()
        case _:
            return "\n".join(texts).encode()
