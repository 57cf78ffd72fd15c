"""The documents of a part, after the filters that a stage asks for.

The path of a document, in order (`stages.py` builds it):

    --where and empty texts   always             readers.py, below
    exact duplicates          --dedup            exact_duplicates.py
    near duplicates           --near-dedup       near_duplicates.py
    benchmark texts           --decontaminate    decontamination.py
    texts without tokens      always             stages.write_tokens
    train or valid            by a hash          encoding.falls_into_valid

A filter knows a document by its number among those that passed the filters before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.tokenize.job import Job
from data_prep.tokenize.long_texts import Text

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
    left_out = left_out or LeftOut(job.settings.skip_unreadable)
    texts = _read_nonempty(job, number, left_out)
    for apply in filters:
        texts = apply(job, number, texts, left_out)
    return texts


def _read_nonempty(job: Job, number: int, left_out: LeftOut) -> Iterator[Text]:
    part = job.parts[number]
    text_field, conditions = job.settings.text_fields[part.source], job.settings.conditions[part.source]
    for span in part.spans:
        for text in read_texts(span, text_field, conditions, left_out):
            if text:
                yield text
            else:
                left_out.counts["empty"] += 1


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
