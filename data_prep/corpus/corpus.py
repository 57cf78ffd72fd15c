"""The quickstart's corpus: prose, code and science, cleaned of duplicates, each cut off at the same size."""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data_prep.corpus.python_texts import Text, code_texts, prose_texts, science_texts

MIN_CHARACTERS = 200  # less is a stub: an empty __init__.py, a one-line description
_COPYRIGHT_LINE = re.compile(r"^\W*copyright\b.*$", re.MULTILINE)


@dataclass
class Collected:
    """What was kept of one source, and what was not."""

    documents: list[tuple[str, str]]
    num_bytes: int = 0
    num_duplicates: int = 0
    num_unreadable: int = 0


def write_corpus(folder: Path, megabytes: float) -> list[tuple[str, int, float, int, int, str]]:
    """Write {prose,code,science}.jsonl.gz, {"id", "source", "text"} a line: the same bytes every time.

    Returns, for every source: name, documents, megabytes, duplicates and unreadable files left out, file.
    ValueError: a size that is not positive; nothing found.
    """
    if not megabytes > 0:
        raise ValueError(f"megabytes: {megabytes} must be above 0")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for source, texts in (("prose", prose_texts()), ("code", code_texts()), ("science", science_texts())):
        collected = collect(tqdm(texts, desc=source, unit=" documents"), int(megabytes * 1e6))
        if not collected.documents:
            raise ValueError(
                f"corpus: found no {source} in this Python installation; bring texts of your own"
            )
        file = folder / f"{source}.jsonl.gz"
        _write_json_lines(file, source, collected.documents)
        rows.append((
            source, len(collected.documents), collected.num_bytes / 1e6,
            collected.num_duplicates, collected.num_unreadable, str(file),
        ))  # fmt: skip
    return rows


def collect(texts: Iterable[Text], max_bytes: int) -> Collected:
    """The first texts, without duplicates and stubs, until they have `max_bytes` of UTF-8."""
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
    # so that topics, licences and manuals are mixed wherever the corpus is cut
    collected.documents.sort(key=lambda document: hashlib.sha1(document[0].encode("utf-8")).digest())
    return collected


def _content_key(text: str) -> bytes:
    """Equal for texts that differ in white space, case and copyright holder: a licence comes many times."""
    content = "".join(_COPYRIGHT_LINE.sub("", text.lower()).split())
    return hashlib.sha1(content.encode("utf-8")).digest()


def _write_json_lines(file: Path, source: str, documents: Iterable[tuple[str, str]]) -> None:
    unfinished = file.with_name(file.name + ".tmp")
    # no name and no time in the header of the archive, so that equal texts are equal bytes
    with open(unfinished, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as out:
        for document_id, text in documents:
            record = {"id": document_id, "source": source, "text": text}
            out.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
    unfinished.rename(file)
