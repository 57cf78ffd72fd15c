"""Quantities as people write them: tokens (`50M`, `1.719T`, `8_192`) and bytes (`500GB`)."""

import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTE_SUFFIXES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_tokens(value: object) -> int:
    """Returns a number of tokens. `value`: an int, a whole float (YAML reads `1e9` as one), or text with an
    optional suffix K, M, B or T (thousand to trillion). Exact: no binary fraction is involved.

    >>> parse_tokens("1.719T")
    1719000000000

    Raises ValueError for anything else, negative and fractional amounts included.
    """
    allowed = (
        "expected a whole number of tokens such as 8192, 50M or 1.719T (K, M, B, T: thousand to trillion)"
    )
    return _parse(value, SUFFIXES, "tokens", allowed)


def parse_bytes(value: object) -> int:
    """Returns a number of bytes. `value`: like that of `parse_tokens`, with the suffixes KB, MB, GB and TB.

    >>> parse_bytes("500GB")
    500000000000

    Raises ValueError for anything else, negative and fractional amounts included.
    """
    allowed = "expected a whole number of bytes such as 500GB or 1.5TB (KB, MB, GB, TB: powers of a thousand)"
    return _parse(value, BYTE_SUFFIXES, "bytes", allowed)


def _parse(value: object, suffixes: dict[str, int], unit: str, allowed: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(allowed)
    text = str(value).strip().replace("_", "")
    suffix = next((suffix for suffix in suffixes if text.endswith(suffix)), "")
    try:
        amount = Decimal(text.removesuffix(suffix)) * suffixes.get(suffix, 1)
    except InvalidOperation:
        raise ValueError(allowed) from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{allowed}, not negative or infinite")
    if amount != int(amount):
        raise ValueError(f"{allowed}; this comes to {amount.normalize():f} {unit}")
    return int(amount)


def format_tokens(tokens: int) -> str:
    """Returns `tokens` for people, with at most four digits: 786432 -> `786.4K`, 2_000_000_000_000 -> `2T`.

    For reading only: it rounds.
    """
    return _format(tokens, SUFFIXES)


def format_bytes(num_bytes: int) -> str:
    """Returns `num_bytes` for people: 4_123_456_789 -> `4.123GB`. For reading only: it rounds."""
    return _format(num_bytes, BYTE_SUFFIXES)


def _format(amount: int, suffixes: dict[str, int]) -> str:
    for suffix, factor in reversed(suffixes.items()):
        if amount >= factor:
            return f"{amount / factor:.4g}{suffix}"
    return str(amount)


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
