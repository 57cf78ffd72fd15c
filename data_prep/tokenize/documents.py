"""The documents of a part, in order: what every stage reads, numbered by their place among those that are left."""

from collections.abc import Callable, Iterable, Iterator

from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.tokenize.job import Job

Report = Callable[[int, int], None]  # of documents and tokens that a task is done with


def part_documents(job: Job, number: int, left_out: LeftOut | None = None) -> Iterator[str]:
    """Texts of a part that meet the conditions and are not empty."""
    left_out = left_out or LeftOut(job.settings.skip_unreadable)
    part = job.parts[number]
    for span in part.spans:
        for text in read_texts(
            span, job.settings.text_fields[part.source], job.settings.conditions[part.source], left_out
        ):
            if text:
                yield text
            else:
                left_out.counts["empty"] += 1


def without(texts: Iterable[str], numbers: Iterator[int], reason: str, left_out: LeftOut) -> Iterator[str]:
    """`texts` without those of the rising `numbers`."""
    dropped = next(numbers, None)
    for number, text in enumerate(texts):
        if number == dropped:
            left_out.counts[reason] += 1
            dropped = next(numbers, None)
        else:
            yield text
