"""Token quantities as people write them: `50M`, `1.719T`, `8_192`."""

from decimal import Decimal, InvalidOperation

SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


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
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(allowed)
    text = str(value).strip().replace("_", "")
    factor = SUFFIXES.get(text[-1:], 1)
    try:
        tokens = Decimal(text if factor == 1 else text[:-1]) * factor
    except InvalidOperation:
        raise ValueError(allowed) from None
    if not tokens.is_finite() or tokens < 0:
        raise ValueError(f"{allowed}, not negative or infinite")
    if tokens != int(tokens):
        raise ValueError(f"{allowed}; this comes to {tokens.normalize():f} tokens")
    return int(tokens)


def format_tokens(tokens: int) -> str:
    """Returns `tokens` for people, with at most four digits: 786432 -> `786.4K`, 2_000_000_000_000 -> `2T`.

    For reading only: it rounds.
    """
    for suffix, factor in reversed(SUFFIXES.items()):
        if tokens >= factor:
            return f"{tokens / factor:.4g}{suffix}"
    return str(tokens)
