"""Exact duplicates over all parts of all sources: the first occurrence in the order of the inputs stays.

Two stages before tokenizing, both bounded in memory. `hashes`: every part writes the hashes of its texts, sorted.
`duplicates`: every bucket, an even range of hashes, reads its range of all parts and writes which documents of
which parts come later than their first. Tokenizing then leaves these out.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.inputs.readers import LeftOut
from data_prep.tokenize.documents import Report, part_documents, without
from data_prep.tokenize.job import Job

HASHES, DUPLICATES = "hashes", "duplicates"
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u4")])
_LATER = np.dtype([("part", "<u4"), ("document", "<u4")])
BUCKET_BYTES = 8 << 30  # of text: some millions of documents, some hundred megabytes of hashes


def num_buckets(job: Job) -> int:
    """Into how many ranges the hashes are cut."""
    return max(1, math.ceil(sum(part.num_bytes for part in job.parts) / BUCKET_BYTES))


def write_hashes(job: Job, number: int, folder: Path, report: Report) -> None:
    """Write the hashes of a part, sorted: 20 bytes a document."""
    digests = bytearray()
    for document, text in enumerate(part_documents(job, number)):
        digests += hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        if document % 1_000 == 0:
            report(document, 0)
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
    hashes = np.empty(len(halves), _HASH)
    hashes["high"], hashes["low"] = halves[:, 0], halves[:, 1]
    hashes["document"] = np.arange(len(halves))
    report(len(halves), 0)
    np.save(folder / "hashes.npy", hashes[np.lexsort((hashes["low"], hashes["high"]))])


def write_duplicates(job: Job, bucket: int, folder: Path, report: Report) -> None:
    """Write the (part, document) of everything in a bucket that is not the first of its hash, sorted."""
    low, high = (2**64 * edge // num_buckets(job) for edge in (bucket, bucket + 1))
    pieces = []
    for number in range(len(job.parts)):
        hashes = np.load(job.task_folder(HASHES, number) / "hashes.npy", mmap_mode="r")
        first = np.searchsorted(hashes["high"], np.uint64(low))
        last = len(hashes) if high == 2**64 else np.searchsorted(hashes["high"], np.uint64(high))
        pieces.append((number, np.array(hashes[first:last])))
    hashes = np.concatenate([piece for _, piece in pieces])
    parts = np.concatenate([np.full(len(piece), number, np.uint32) for number, piece in pieces])
    # a stable sort of pieces in the order of parts, each in the order of documents
    order = np.lexsort((hashes["low"], hashes["high"]))
    hashes, parts = hashes[order], parts[order]
    is_later = np.zeros(len(hashes), bool)
    for half in ("high", "low"):
        is_later[1:] |= hashes[half][1:] != hashes[half][:-1]
    is_later[1:] = ~is_later[1:]
    later = np.empty(int(is_later.sum()), _LATER)
    later["part"], later["document"] = parts[is_later], hashes["document"][is_later]
    report(len(later), 0)
    np.save(folder / "later.npy", np.sort(later, order=("part", "document")))


def duplicates_of(job: Job, number: int) -> Iterator[int]:
    """Numbers of the documents of a part that are duplicates, rising."""
    found = []
    for bucket in range(num_buckets(job)):
        later = np.load(job.task_folder(DUPLICATES, bucket) / "later.npy", mmap_mode="r")
        first, last = np.searchsorted(later["part"], [number, number + 1])
        found.append(np.array(later["document"][first:last]))
    return iter(np.sort(np.concatenate(found)).tolist())


def distinct_documents(job: Job, number: int, left_out: LeftOut | None = None) -> Iterator[str]:
    """Documents of a part without exact duplicates, where these are left out."""
    left_out = left_out or LeftOut(job.settings.skip_unreadable)
    texts = part_documents(job, number, left_out)
    return without(texts, duplicates_of(job, number), "duplicate", left_out) if job.settings.dedup else texts
