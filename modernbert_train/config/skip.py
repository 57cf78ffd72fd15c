"""The lists under `data.skip`: ranges of steps, and of documents of a source."""

import re
from collections.abc import Iterable, Iterator

from modernbert_train.config.schema import SkipConfig

_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def parse_range(text: str) -> range:
    """Parse a number `7`, or a range `5-9` with both ends included.

    Returns:
        The numbers.

    Raises:
        ValueError: saying what is wrong with the text.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a number such as 1500, or a range such as 1200-1300")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"the range ends before it begins; write {last}-{first}")
    return range(first, last + 1)


def parse_documents(text: str) -> tuple[str, range]:
    """Parse documents of a source, such as `web:17` or `web:20-29`.

    Returns:
        The source and the numbers of the documents.

    Raises:
        ValueError: saying what is wrong with the text.
    """
    source, colon, numbers = text.strip().rpartition(":")
    if not colon or not source:
        raise ValueError("expected a source and a number such as web:17, or a range such as web:20-29")
    return source, parse_range(numbers)


def format_range(numbers: range) -> str:
    """Return `7` or `5-9`, which `parse_range` reads."""
    return str(numbers.start) if len(numbers) == 1 else f"{numbers.start}-{numbers.stop - 1}"


def join_ranges(ranges: Iterable[range]) -> tuple[range, ...]:
    """Join ranges that overlap or touch.

    >>> join_ranges([range(5, 8), range(1, 3), range(3, 4), range(6, 7)])
    (range(1, 4), range(5, 8))

    Returns:
        The same numbers as ascending ranges with gaps between them.
    """
    joined: list[range] = []
    for part in sorted(ranges, key=lambda part: part.start):
        if joined and part.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, part.stop))
        else:
            joined.append(part)
    return tuple(joined)


def skipped_steps(skip: SkipConfig) -> tuple[range, ...]:
    """Return the steps to skip, counted from 0 (recipes and logs count from 1)."""
    named = [parse_range(text) for text in skip.steps]
    return join_ranges(range(part.start - 1, part.stop - 1) for part in named)


def check_skip(skip: SkipConfig, sources: list[str]) -> Iterator[str]:
    """Yield the problems of the lists.

    Whether the run has such steps is checked by its schedule, whether a source has such documents when its store is
    open.
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
                    f"data.skip.documents has {text!r}: {source!r} is not in data.sources; "
                    f"the sources are {', '.join(sources) or 'none'}"
                )
