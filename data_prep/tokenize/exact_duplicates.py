"""Exact duplicates across all parts of all sources: the first occurrence in the order of the inputs stays.

Two stages find them before tokenizing, both in bounded memory. `hashes`: each part writes the sorted hashes of its
texts. `duplicates`: each bucket, an equal range of hash values, reads its range from all parts and writes which
documents of which parts are repetitions. Tokenizing then leaves those out.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.inputs.long_text import Text
from data_prep.inputs.readers import LeftOut
from data_prep.tokenize.documents import Filter, Report, leave_out, read_documents
from data_prep.tokenize.job import Job
from data_prep.tokenize.long_texts import digest_of

HASHES, DUPLICATES = "hashes", "duplicates"
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u4")])
_LATER = np.dtype([("part", "<u4"), ("document", "<u4")])
BUCKET_BYTES = 8 << 30  # bytes of text per bucket: millions of documents, hundreds of megabytes of hashes


def num_buckets(job: Job) -> int:
    """Return the number of ranges of hash values."""
    return max(1, math.ceil(sum(part.num_bytes for part in job.parts) / BUCKET_BYTES))


def write_hashes(
    job: Job, number: int, folder: Path, report: Report, *, filters: Sequence[Filter] = ()
) -> None:
    """Write the sorted hashes of a part: 20 bytes per document."""
    digests = bytearray()
    for document, text in enumerate(read_documents(job, number, filters)):
        digests += digest_of(text, 16)
        if document % 1_000 == 0:
            report(document, 0)
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
    hashes = np.empty(len(halves), _HASH)
    hashes["high"], hashes["low"] = halves[:, 0], halves[:, 1]
    hashes["document"] = np.arange(len(halves))
    report(len(halves), 0)
    np.save(folder / "hashes.npy", hashes[np.lexsort((hashes["low"], hashes["high"]))])


def write_duplicates(job: Job, bucket: int, folder: Path, report: Report) -> None:
    """Write the sorted (part, document) pairs of a bucket whose hash occurred before."""
    low, high = (2**64 * edge // num_buckets(job) for edge in (bucket, bucket + 1))
    pieces = []
    for number in range(len(job.parts)):
        hashes = np.load(job.task_folder(HASHES, number) / "hashes.npy", mmap_mode="r")
        first = np.searchsorted(hashes["high"], np.uint64(low))
        last = len(hashes) if high == 2**64 else np.searchsorted(hashes["high"], np.uint64(high))
        pieces.append((number, np.array(hashes[first:last])))
    hashes = np.concatenate([piece for _, piece in pieces])
    parts = np.concatenate([np.full(len(piece), number, np.uint32) for number, piece in pieces])
    # stable: equal hashes stay in the order of parts and documents
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


def drop_exact_duplicates(job: Job, number: int, texts: Iterator[Text], left_out: LeftOut) -> Iterator[Text]:
    """Leave out the exact duplicates of a part."""
    return leave_out(texts, iter(_duplicate_numbers(job, number)), "duplicate", left_out)


def _duplicate_numbers(job: Job, number: int) -> list[int]:
    """Collect the numbers of the duplicates of a part from all buckets, ascending."""
    found = []
    for bucket in range(num_buckets(job)):
        later = np.load(job.task_folder(DUPLICATES, bucket) / "later.npy", mmap_mode="r")
        first, last = np.searchsorted(later["part"], [number, number + 1])
        found.append(np.array(later["document"][first:last]))
    return np.sort(np.concatenate(found)).tolist()
