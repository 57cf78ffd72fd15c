"""Near-duplicates (MinHash) and texts of benchmarks (n-grams of words): datatrove's steps as stages of ours.

Words are what white space parts once case, punctuation, accents and the values of numbers are gone: datatrove's
word tokenizers need a package and a model for each language. Of a cluster of near-duplicates one document stays;
two texts of which 80% of the 5-grams agree are found with 92% probability (datatrove's defaults: 14 buckets of 8
hashes).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer

from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.rows import Span
from data_prep.tokenize.documents import Report
from data_prep.tokenize.duplicates import distinct_documents
from data_prep.tokenize.job import Job

SIGNATURES, PAIRS, CLUSTERS, BENCHMARKS = "signatures", "pairs", "clusters", "benchmarks"
CONFIG = MinhashConfig()


class Words(WordTokenizer):
    """Words of any language: what white space parts."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError  # of datatrove's interface; no step here asks for sentences

    span_tokenize = sent_tokenize


def _documents(texts: Iterable[str], report: Report) -> Iterator[Document]:
    for number, text in enumerate(texts):
        report(number, 0)
        yield Document(text=text, id=str(number))


def write_signatures(job: Job, number: int, _: Path, report: Report) -> None:
    """Write the signatures of a part, sorted, into the folder that all parts share."""
    step = MinhashDedupSignature(str(job.work / "minhash/signatures"), CONFIG, Words())
    step.run(_documents(distinct_documents(job, number), report), number)


def write_pairs(job: Job, bucket: int, _: Path, report: Report) -> None:
    """Write the pairs of documents whose signatures agree in a bucket."""
    step = MinhashDedupBuckets(
        str(job.work / "minhash/signatures"), str(job.work / "minhash/pairs"), config=CONFIG
    )
    step.run(None, bucket, CONFIG.num_buckets)


def write_clusters(job: Job, _: int, folder: Path, report: Report) -> None:
    """Write which documents of each part go: all but one of every cluster of pairs."""
    MinhashDedupCluster(str(job.work / "minhash/pairs"), str(folder), CONFIG).run(None, 0, 1)


def near_duplicates_of(job: Job, number: int) -> Iterator[int]:
    """Numbers of the near-duplicates among the distinct documents of a part, rising."""
    file = job.task_folder(CLUSTERS, 0) / f"{number:06d}.remove"
    return iter(np.fromfile(file, "<u4").tolist() if file.exists() else [])


def write_benchmarks(job: Job, _: int, folder: Path, report: Report) -> None:
    """Write the hashes of all n-grams of the benchmarks' texts.

    Our own few lines of datatrove's indexer, which insists on lighteval.
    ValueError: no text of a benchmark has as many words as an n-gram.
    """
    config = NGramsDecontConfig(n_grams=job.settings.ngram_words)
    hash_of = create_hash_func(config.hash_config)
    hashes: set[int] = set()
    for benchmark in job.benchmarks:
        for number, text in enumerate(read_texts(Span(benchmark.item), "text")):
            words = simplify_text(text, config.norm_config).split()
            hashes.update(hash_of(" ".join(words)) for words in ngrams(words, job.settings.ngram_words))
            report(number, 0)
    if not hashes:
        raise ValueError(
            f"decontaminate: no text has {job.settings.ngram_words} words in a row; "
            "lower --ngram-words or check the files"
        )
    np.array(sorted(hashes), config.hash_config.np_descr).tofile(folder / "benchmarks.index.hashes")


def uncontaminated(job: Job, texts: Iterable[str], left_out: LeftOut) -> Iterator[str]:
    """`texts` that share no n-gram with a benchmark."""
    config = NGramsDecontConfig(n_grams=job.settings.ngram_words)
    check = NGramsDecontFilter(str(job.task_folder(BENCHMARKS, 0)), config, language=Words())
    for text in texts:
        if check.filter(Document(text=text, id="")) is True:
            yield text
        else:
            left_out.counts["contaminated"] += 1
