"""The documents of a part, after the filters that a stage asks for.

The path of a document, in order (`stages.py` builds it):

    --where and empty texts   always             readers.py
    exact duplicates          --dedup            exact_duplicates.py
    near duplicates           --near-dedup       near_duplicates.py
    benchmark texts           --decontaminate    decontamination.py
    texts without tokens      always             stages.write_tokens
    train or valid            by a hash          encoding.falls_into_valid

A filter knows a document by its number among those that passed the filters before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from data_prep.inputs.long_text import Text
from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.tokenize.job import Job

# Reports the documents and tokens that a task has processed so far
Report = Callable[[int, int], None]
# (job, number of the part, its texts, counts of what is left out) -> the texts that pass
Filter = Callable[[Job, int, Iterator[Text], LeftOut], Iterator[Text]]


def read_documents(
    job: Job, number: int, filters: Sequence[Filter] = (), left_out: LeftOut | None = None
) -> Iterator[Text]:
    """Read the texts of a part that pass `filters`, in the order of the inputs.

    Args:
        job: that the part belongs to.
        number: of the part.
        filters: to apply, in order.
        left_out: counts the documents that are left out.

    Returns:
        Iterator of texts; none is empty.
    """
    left_out = left_out or LeftOut(job.settings.on_bad_row)
    part = job.parts[number]
    reading = job.settings.readings[part.source]
    texts: Iterator[Text] = chain.from_iterable(read_texts(span, reading, left_out) for span in part.spans)
    for apply in filters:
        texts = apply(job, number, texts, left_out)
    return texts


def leave_out(
    texts: Iterable[Text], numbers: Iterator[int], reason: str, left_out: LeftOut
) -> Iterator[Text]:
    """Yield the texts whose number is not in `numbers`, which must be ascending."""
    next_number = next(numbers, None)
    for number, text in enumerate(texts):
        if number == next_number:
            left_out.counts[reason] += 1
            next_number = next(numbers, None)
        else:
            yield text
