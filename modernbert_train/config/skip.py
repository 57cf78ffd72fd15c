"""What a recipe says shall be skipped: ranges of steps, and of documents of a source."""

import re
from collections.abc import Iterable, Iterator

from modernbert_train.config.schema import SkipConfig

_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def parse_range(text: str) -> range:
    """Returns the numbers that `7` or `5-9`, ends included, stand for. ValueError says what is wrong."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a number such as 1500, or a range such as 1200-1300")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"this range ends before it begins; write {last}-{first}")
    return range(first, last + 1)


def parse_documents(text: str) -> tuple[str, range]:
    """Returns source and numbers of `web:17` or `web:20-29`. ValueError says what is wrong."""
    source, colon, numbers = text.strip().rpartition(":")
    if not colon or not source:
        raise ValueError("expected a source and a number such as web:17, or a range such as web:20-29")
    return source, parse_range(numbers)


def range_text(numbers: range) -> str:
    """Returns `7` or `5-9`: what `parse_range` reads."""
    return str(numbers.start) if len(numbers) == 1 else f"{numbers.start}-{numbers.stop - 1}"


def join_ranges(ranges: Iterable[range]) -> tuple[range, ...]:
    """Returns the same numbers as few ranges in ascending order, with gaps between them.

    >>> join_ranges([range(5, 8), range(1, 3), range(3, 4), range(6, 7)])
    (range(1, 4), range(5, 8))
    """
    joined: list[range] = []
    for part in sorted(ranges, key=lambda part: part.start):
        if joined and part.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, part.stop))
        else:
            joined.append(part)
    return tuple(joined)


def skipped_steps(skip: SkipConfig) -> tuple[range, ...]:
    """Returns the steps to skip, counted from 0 (a recipe, as the logs, counts from 1)."""
    named = [parse_range(text) for text in skip.steps]
    return join_ranges(range(part.start - 1, part.stop - 1) for part in named)


def check_skip(skip: SkipConfig, sources: list[str]) -> Iterator[str]:
    """Yields what is wrong with the lists themselves. Whether the run has such steps, its plan knows; whether a
    source has such documents, its store.
    """
    for text in skip.steps:
        try:
            if parse_range(text).start < 1:
                yield f"data.skip.steps has {text!r}: steps count from 1, as in the logs"
        except ValueError as error:
            yield f"data.skip.steps has {text!r}: {error}"
    for text in skip.documents:
        try:
            source, _ = parse_documents(text)
        except ValueError as error:
            yield f"data.skip.documents has {text!r}: {error}"
        else:
            if source not in sources:
                yield (
                    f"data.skip.documents has {text!r}: there is no source {source!r} in data.sources; "
                    f"there is {', '.join(sources) or 'none'}"
                )
