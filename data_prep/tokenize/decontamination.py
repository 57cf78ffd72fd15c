"""Decontamination: leave out texts that share an n-gram of words with a benchmark, by datatrove's filter."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text

from data_prep.inputs.long_text import Text, pieces_of
from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.rows import Span
from data_prep.tokenize.documents import Report
from data_prep.tokenize.job import Job
from data_prep.tokenize.words import Words

BENCHMARKS = "benchmarks"
WORD_CHARACTERS = 100  # n-grams of longer words may be missed where a long text is cut into pieces


def write_benchmarks(job: Job, _: int, folder: Path, report: Report) -> None:
    """Write the hashes of all n-grams of the benchmarks.

    Replaces datatrove's indexer, which depends on lighteval.

    Raises:
        ValueError: No benchmark text has as many words as an n-gram.
    """
    config = NGramsDecontConfig(n_grams=job.settings.ngram_words)
    hash_ngram = create_hash_func(config.hash_config)
    hashes: set[int] = set()
    for benchmark in job.benchmarks:
        texts = read_texts(Span(benchmark.item), left_out=LeftOut(job.settings.on_bad_row))
        for number, text in enumerate(texts):
            words = simplify_text("".join(pieces_of(text)), config.norm_config).split()
            hashes.update(hash_ngram(" ".join(ngram)) for ngram in ngrams(words, job.settings.ngram_words))
            report(number, 0)
    if not hashes:
        raise ValueError(
            f"decontaminate: no text has {job.settings.ngram_words} words in a row; "
            "lower --ngram-words or check the files"
        )
    np.array(sorted(hashes), config.hash_config.np_descr).tofile(folder / "benchmarks.index.hashes")


def drop_contaminated(job: Job, _: int, texts: Iterator[Text], left_out: LeftOut) -> Iterator[Text]:
    """Leave out texts that share an n-gram with a benchmark."""
    config = NGramsDecontConfig(n_grams=job.settings.ngram_words)
    # an absolute path: fsspec caches file systems by their path
    hashes = str(job.task_folder(BENCHMARKS, 0).resolve())
    decontaminate = NGramsDecontFilter(hashes, config, language=Words())
    for text in texts:
        pieces = _overlapping(text, job.settings.ngram_words * WORD_CHARACTERS)
        if all(decontaminate.filter(Document(text=piece, id="")) is True for piece in pieces):
            yield text
        else:
            left_out.counts["contaminated"] += 1


def _overlapping(text: Text, num_characters: int) -> Iterator[str]:
    """Yield the pieces of a text, each with the end of those before it, so that no n-gram is cut."""
    end = ""
    for piece in pieces_of(text):
        yield end + piece
        end = (end + piece)[-num_characters:]
