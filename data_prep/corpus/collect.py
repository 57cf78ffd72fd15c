"""The corpus of the quickstart: prose, code and science, without duplicates, each source of the same size."""

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.corpus.python_texts import Text, code_texts, prose_texts, science_texts
from data_prep.progress import progress_bar
from modernbert_train.common.files import write_atomically

MIN_CHARACTERS = 200  # shorter texts are stubs: an empty __init__.py, a one-line description
_COPYRIGHT_LINE = re.compile(r"^\W*copyright\b.*$", re.MULTILINE)


@dataclass
class Collected:
    """The documents of one source, and counts of what was left out."""

    documents: list[tuple[str, str]]  # (id, text)
    num_bytes: int = 0
    num_duplicates: int = 0
    num_unreadable: int = 0


def write_corpus(folder: Path, megabytes: float) -> list[tuple[str, int, float, int, int, str]]:
    """Write {prose,code,science}.jsonl.gz with a line {"id", "source", "text"} per document.

    The bytes are the same every time.

    Args:
        folder: to write to.
        megabytes: maximum size of the text of each source.

    Returns:
        A row per source: name, documents, megabytes, duplicates and unreadable files left out, file.

    Raises:
        ValueError: The size is not positive, or a source has no text.
    """
    if not megabytes > 0:
        raise ValueError(f"megabytes: {megabytes} must be greater than 0")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for source, texts in (("prose", prose_texts()), ("code", code_texts()), ("science", science_texts())):
        collected = collect(progress_bar(texts, desc=source, unit=" documents"), int(megabytes * 1e6))
        if not collected.documents:
            raise ValueError(f"corpus: found no {source} in this Python installation; use texts of your own")
        file = folder / f"{source}.jsonl.gz"
        _write_json_lines(file, source, collected.documents)
        rows.append((
            source, len(collected.documents), collected.num_bytes / 1e6,
            collected.num_duplicates, collected.num_unreadable, str(file),
        ))  # fmt: skip
    return rows


def collect(texts: Iterable[Text], max_bytes: int) -> Collected:
    """Collect texts without duplicates and stubs until they reach `max_bytes` of UTF-8.

    Returns:
        The documents, sorted by a hash of their id, and the counts.
    """
    collected, seen = Collected([]), set()
    for document_id, text in texts:
        if text is None:
            collected.num_unreadable += 1
            continue
        if len(text) < MIN_CHARACTERS:
            continue
        key = _content_key(text)
        if key in seen:
            collected.num_duplicates += 1
            continue
        seen.add(key)
        collected.documents.append((document_id, text))
        collected.num_bytes += len(text.encode("utf-8"))
        if collected.num_bytes >= max_bytes:
            break
    # mixes topics, licences and manuals, so that any prefix of the corpus is representative
    collected.documents.sort(key=lambda document: hashlib.sha1(document[0].encode("utf-8")).digest())
    return collected


def _content_key(text: str) -> bytes:
    """Return the same key for texts that differ only in white space, case or copyright line, as licences do."""
    content = "".join(_COPYRIGHT_LINE.sub("", text.lower()).split())
    return hashlib.sha1(content.encode("utf-8")).digest()


def _write_json_lines(file: Path, source: str, documents: Iterable[tuple[str, str]]) -> None:
    archive = io.BytesIO()
    # without name and time in the header, equal texts give equal bytes
    with gzip.GzipFile(filename="", mode="wb", fileobj=archive, mtime=0) as out:
        for document_id, text in documents:
            record = {"id": document_id, "source": source, "text": text}
            out.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
    write_atomically(file, archive.getvalue())
