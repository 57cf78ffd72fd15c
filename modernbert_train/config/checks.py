"""Checks that several parts of the validation share."""

import math
from collections.abc import Iterator


def share_of_tokens(field: str, value: float) -> Iterator[str]:
    """Yields a problem unless `value` lies between 0 and 1, both excluded."""
    if not 0 < value < 1:
        yield f"{field} is {value}: it is a share of the tokens; choose one between 0 and 1, such as 0.3"


def above_zero(section: str, fields: dict[str, float]) -> Iterator[str]:
    """Yields a problem for each field that is not a finite number above 0."""
    for field, value in fields.items():
        if not (value > 0 and math.isfinite(value)):
            yield f"{section}.{field} is {value}: make it a finite number above 0"


def zero_or_above(field: str, value: float) -> Iterator[str]:
    """Yields a problem unless `value` is a finite number, 0 or above."""
    if not (value >= 0 and math.isfinite(value)):
        yield f"{field} is {value}: make it a finite number, 0 or above"


def next_multiple(value: int, factor: int) -> int:
    """Returns the smallest multiple of `factor`, itself at least, that is not below `value`."""
    return max(factor, -(-value // factor) * factor)
