"""Near duplicates, found by datatrove's MinHash steps run as our stages.

One document of each cluster stays. Two texts that share 80% of their 5-grams are found with 92% probability
(datatrove's defaults: 14 buckets of 8 hashes).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig

from data_prep.inputs.long_text import Text, pieces_of
from data_prep.inputs.readers import LeftOut
from data_prep.tokenize.documents import Filter, Report, leave_out, read_documents
from data_prep.tokenize.job import Job
from data_prep.tokenize.words import Words

SIGNATURES, PAIRS, CLUSTERS = "signatures", "pairs", "clusters"
CONFIG = MinhashConfig()


def write_signatures(job: Job, number: int, _: Path, report: Report, *, filters: Sequence[Filter]) -> None:
    """Write the sorted signatures of a part into the folder that all parts share."""

    def documents() -> Iterator[Document]:
        for document, text in enumerate(read_documents(job, number, filters)):
            report(document, 0)
            yield Document(text="".join(pieces_of(text)), id=str(document))

    MinhashDedupSignature(_signatures(job), CONFIG, Words()).run(documents(), number)


def write_pairs(job: Job, bucket: int, _: Path, report: Report) -> None:
    """Write the pairs of documents whose signatures agree in a bucket."""
    step = MinhashDedupBuckets(_signatures(job), _pairs(job), config=CONFIG)
    step.run(None, bucket, CONFIG.num_buckets)


def write_clusters(job: Job, _: int, folder: Path, report: Report) -> None:
    """Write which documents of each part are dropped: all but one of every cluster of pairs."""
    MinhashDedupCluster(_pairs(job), str(folder), CONFIG).run(None, 0, 1)


def drop_near_duplicates(job: Job, number: int, texts: Iterator[Text], left_out: LeftOut) -> Iterator[Text]:
    """Leave out the near duplicates of a part."""
    file = job.task_folder(CLUSTERS, 0) / f"{number:06d}.remove"
    dropped = np.fromfile(file, "<u4").tolist() if file.exists() else []
    return leave_out(texts, iter(dropped), "near_duplicate", left_out)


def _signatures(job: Job) -> str:
    return str((job.work / "minhash/signatures").resolve())


def _pairs(job: Job) -> str:
    return str((job.work / "minhash/pairs").resolve())
