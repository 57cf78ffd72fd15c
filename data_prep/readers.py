"""Files, saved datasets and hub datasets -> texts, one document after the other, in constant memory.

Texts are never altered. JSON lines end at a line feed alone: `str.splitlines` would also cut at U+2028, which
JSON leaves unescaped. What cannot be read is an error that names file and line, never a shorter corpus.
"""

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
ENDINGS = (*JSON_LINES, ".parquet", ".txt")
HUB_PREFIX = "hf:"
PARQUET_ROWS = 1_000  # rows of text held in memory at once


def resolve_inputs(patterns: Iterable[str]) -> list[str]:
    """Files, dataset folders and hub ids that the patterns name, each once, files in sorted order.

    ValueError: a pattern without a match, a file of an unknown kind, a folder that `datasets` did not save.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if pattern.startswith(HUB_PREFIX):
            found[pattern] = None
            continue
        expanded = os.path.expanduser(pattern)
        matches = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
        if not matches:
            raise ValueError(f"input: no file matches {pattern!r}; check the path, and quote the pattern")
        for path in matches:
            _check_kind(path)
            found[path] = None
    return list(found)


def _check_kind(path: str) -> None:
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "dataset_dict.json")):
            splits = json.loads(Path(path, "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            raise ValueError(
                f"input: {path} holds the splits {', '.join(splits)}; name one: {path}/{splits[0]}"
            )
        if not os.path.exists(os.path.join(path, "state.json")):
            raise ValueError(
                f"input: {path} is a folder, but not one that datasets.save_to_disk wrote; name its files "
                f"with a pattern, such as '{path}/**/*.txt'"
            )
    elif not path.endswith(ENDINGS):
        raise ValueError(
            f"input: {path} has an unknown ending; allowed: {', '.join(ENDINGS)}, a folder that "
            "datasets.save_to_disk wrote, and hf:NAME[:CONFIG][:SPLIT]"
        )


def read_texts(item: str, text_field: str) -> Iterator[str]:
    """Texts of one input that `resolve_inputs` named; .txt, where a file is a document, has no `text_field`.

    ValueError, with file and line or row: broken JSON, a field that is missing or no string, invalid UTF-8,
    damaged compression, a dataset that cannot be loaded.
    """
    if item.startswith(HUB_PREFIX):
        return _read_hub(item, text_field)
    if os.path.isdir(item):
        return _read_saved(item, text_field)
    if item.endswith(".parquet"):
        return _read_parquet(item, text_field)
    if item.endswith(".txt"):
        return iter([_decode(Path(item).read_bytes(), item)])
    return _read_json_lines(item, text_field)


def _read_json_lines(path: str, text_field: str) -> Iterator[str]:
    line_number = 0
    try:
        with _open(path) as file:
            for line_number, line in enumerate(file, 1):
                if not line.isspace():
                    place = f"{path}:{line_number}"
                    yield _text_of(_parse(line, place), text_field, place)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}:{line_number + 1}: cannot be read ({error}); restore the file") from error


def _open(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.endswith(".zst"):
        # pyarrow and not zstandard, whose reader takes a truncated file for a finished one
        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return open(path, "rb")


def _parse(line: bytes, place: str) -> Any:
    try:
        return json.loads(_decode(line, place).removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        message = f"{place}: broken JSON ({error.msg}, column {error.colno}); repair or remove the line"
        raise ValueError(message) from error


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: invalid UTF-8 ({error.reason}, byte {error.start}); convert it first"
        ) from error


def _text_of(record: Any, text_field: str, place: str) -> str:
    if not isinstance(record, dict):
        raise ValueError(
            f"{place}: must be an object with a field {text_field!r}, is a {type(record).__name__}"
        )
    if text_field not in record:
        fields = ", ".join(map(str, record)) or "none"
        raise ValueError(f"{place}: has no field {text_field!r}; fields: {fields}; choose with --text-field")
    return _checked(record[text_field], text_field, place)


def _checked(text: Any, text_field: str, place: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{place}: field {text_field!r} must be a string, is {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # "\ud800" is valid JSON, but no text
        raise ValueError(
            f"{place}: field {text_field!r} holds a lone surrogate (character {error.start}), "
            "which is no text; repair or remove the line"
        ) from error
    return text


def _read_parquet(path: str, text_field: str) -> Iterator[str]:
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_field not in names:
                raise ValueError(
                    f"{path}: has no column {text_field!r}; columns: {', '.join(names)}; "
                    "choose with --text-field"
                )
            for batch in file.iter_batches(PARQUET_ROWS, columns=[text_field]):
                for value in batch.column(0):
                    row += 1
                    yield _checked(value.as_py(), text_field, f"{path}, row {row}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, row {row}: invalid UTF-8 ({error.reason}); convert it first") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read after row {row} ({error}); restore the file") from error


def _read_saved(path: str, text_field: str) -> Iterator[str]:
    import datasets  # takes seconds to import

    try:
        rows = datasets.load_from_disk(path)
    except (
        Exception
    ) as error:  # the library raises anything from KeyError to ArrowInvalid for a damaged folder
        raise ValueError(f"{path}: cannot be loaded ({_first_line(error)})") from error
    return _read_rows(rows, text_field, path)


def _read_hub(item: str, text_field: str) -> Iterator[str]:
    """hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, streamed; the split is "train" unless named."""
    import datasets  # takes seconds to import

    name, *rest = item.removeprefix(HUB_PREFIX).split(":")
    if not name or len(rest) > 2:
        raise ValueError(f"input: {item!r} must be hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # unknown names, splits and lost connections have no common type
        raise ValueError(f"{item}: cannot be loaded ({_first_line(error)})") from error
    return _read_rows(rows, text_field, item)


def _read_rows(rows: Iterable[Any], text_field: str, place: str) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        yield _text_of(row, text_field, f"{place}, row {number}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
