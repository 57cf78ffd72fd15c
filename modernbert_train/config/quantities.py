"""Numbers with a unit, as people write them: tokens (`50M`, `1.719T`, `8_192`) and bytes (`500GB`); range checks."""

import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTE_SUFFIXES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_tokens(value: object) -> int:
    """Parse a number of tokens. The result is exact: no binary fraction is involved.

    >>> parse_tokens("1.719T")
    1719000000000

    Args:
        value: an int, a whole float (YAML reads `1e9` as one), or text with an optional suffix K, M, B or T.

    Returns:
        The number of tokens.

    Raises:
        ValueError: for anything else, including negative and fractional amounts.
    """
    expected = (
        "expected a whole number of tokens such as 8192, 50M or 1.719T (K, M, B, T: thousand to trillion)"
    )
    return _parse(value, SUFFIXES, "tokens", expected)


def parse_bytes(value: object) -> int:
    """Parse a number of bytes, as `parse_tokens` does, with the suffixes KB, MB, GB and TB.

    >>> parse_bytes("500GB")
    500000000000

    Returns:
        The number of bytes.

    Raises:
        ValueError: for anything else, including negative and fractional amounts.
    """
    expected = (
        "expected a whole number of bytes such as 500GB or 1.5TB (KB, MB, GB, TB: powers of a thousand)"
    )
    return _parse(value, BYTE_SUFFIXES, "bytes", expected)


def _parse(value: object, suffixes: dict[str, int], unit: str, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    text = str(value).strip().replace("_", "")
    suffix = next((suffix for suffix in suffixes if text.endswith(suffix)), "")
    try:
        amount = Decimal(text.removesuffix(suffix)) * suffixes.get(suffix, 1)
    except InvalidOperation:
        raise ValueError(expected) from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{expected}, not negative or infinite")
    if amount != int(amount):
        raise ValueError(f"{expected}; this is {amount.normalize():f} {unit}")
    return int(amount)


def format_tokens(tokens: float, digits: int = 4) -> str:
    """Format a number of tokens for display, rounded to `digits` digits: 786432 -> `786.4K`."""
    return _format(tokens, SUFFIXES, digits)


def format_bytes(num_bytes: int) -> str:
    """Format a number of bytes for display, rounded to four digits: 4_123_456_789 -> `4.123GB`."""
    return _format(num_bytes, BYTE_SUFFIXES, digits=4)


def _format(amount: float, suffixes: dict[str, int], digits: int) -> str:
    for suffix, factor in reversed(suffixes.items()):
        if amount >= factor:
            return f"{amount / factor:.{digits}g}{suffix}"
    return f"{amount:.{digits}g}"


# Range checks yield a problem for a value out of range. `not (...)` instead of the opposite comparison: NaN fails too.


def check_at_least_one(section: str, fields: dict[str, int]) -> Iterator[str]:
    """Yield a problem for each field of a section below 1. `section` ends with a dot, or is empty."""
    for field, value in fields.items():
        if value < 1:
            yield f"{section}{field} is {value}: must be at least 1"


def check_positive(section: str, fields: dict[str, float]) -> Iterator[str]:
    """Yield a problem for each field of a section that is not a finite number above 0."""
    for field, value in fields.items():
        if not (value > 0 and math.isfinite(value)):
            yield f"{section}{field} is {value}: must be a finite number above 0"


def check_not_negative(field: str, value: float) -> Iterator[str]:
    """Yield a problem unless `value` is a finite number of at least 0."""
    if not (value >= 0 and math.isfinite(value)):
        yield f"{field} is {value}: must be a finite number of at least 0"


def check_below_one(field: str, value: float, example: str = "") -> Iterator[str]:
    """Yield a problem unless `value` is at least 0 and less than 1."""
    if not 0 <= value < 1:
        yield f"{field} is {value}: must be at least 0 and less than 1{example}"


def check_share(field: str, value: float) -> Iterator[str]:
    """Yield a problem unless `value` is above 0 and less than 1."""
    if not 0 < value < 1:
        yield f"{field} is {value}: must be above 0 and less than 1, such as 0.3"


def next_multiple(value: int, factor: int) -> int:
    """Return the smallest positive multiple of `factor` that is not below `value`."""
    return max(factor, -(-value // factor) * factor)


def nearest_multiples(value: int, factor: int) -> str:
    """Return the positive multiples of `factor` next to `value`, in words: 130, 64 -> `128 or 192`."""
    below, above = value // factor * factor, next_multiple(value, factor)
    return f"{below} or {above}" if 0 < below < above else str(above)


_MOST_TRIED = 1 << 16  # a search for divisors ends after this many numbers


def nearest_divisors(value: int, near: int, least: int = 1) -> list[int]:
    """Return the divisors of `value`, of at least `least`, next to `near`: 96, 7 -> [6, 8]; empty if none is close."""
    below = range(min(near, value), max(least, near - _MOST_TRIED) - 1, -1)
    above = range(max(least, near + 1), min(value, near + _MOST_TRIED) + 1)
    found = [next((number for number in side if value % number == 0), None) for side in (below, above)]
    return [number for number in found if number is not None]
