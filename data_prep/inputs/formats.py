"""The formats of files, known by their endings, in any case: `.jsonl`, `.TXT`, `.csv.gz`."""

import os
from typing import NamedTuple

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".txt": "txt",
}  # fmt: skip
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ALLOWED = f"{', '.join(FORMATS)}, all but .parquet also with {', '.join(COMPRESSIONS)}"


class Kind(NamedTuple):
    """The format of a file and its compression, "" for none."""

    format: str
    compression: str
    ending: str  # lower case, such as ".jsonl.gz"


def kind_of(path: str) -> Kind | None:
    """Return the kind of a file by its name, None for an unknown ending."""
    stem, ending = os.path.splitext(path.lower())
    compression = ""
    if ending in COMPRESSIONS:
        compression = ending
        ending = os.path.splitext(stem)[1]
    file_format = FORMATS.get(ending)
    if file_format is None or (compression and file_format == "parquet"):
        return None
    return Kind(file_format, compression, ending + compression)
