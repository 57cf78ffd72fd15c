import pytest

from modernbert_train.config import format_tokens, parse_tokens


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        (8192, 8192),
        ("8192", 8192),
        ("8_192", 8192),
        ("50M", 50_000_000),
        ("1.719T", 1_719_000_000_000),
        ("0.5K", 500),
        (" 3B ", 3_000_000_000),
        (1e9, 1_000_000_000),
        (0, 0),
    ],
)
def test_quantities_are_exact(written, tokens):
    assert parse_tokens(written) == tokens
    assert isinstance(parse_tokens(written), int)


@pytest.mark.parametrize(
    "written", ["-5M", -1, 1.5, "1.5", "0.0001K", "50m", "50MB", "1,024", "many", "", "K", True, None, [1]]
)
def test_anything_else_is_rejected(written):
    with pytest.raises(ValueError, match=r"expected a whole number of tokens such as 8192, 50M or 1\.719T"):
        parse_tokens(written)


@pytest.mark.parametrize("written", ["inf", "nan", float("inf")])
def test_not_a_finite_number(written):
    with pytest.raises(ValueError, match="not negative or infinite"):
        parse_tokens(written)


def test_a_fraction_is_shown_without_its_suffix():
    with pytest.raises(ValueError, match=r"this is 1\.5 tokens"):
        parse_tokens("0.0015K")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(0, "0"), (999, "999"), (8192, "8.192K"), (786_432, "786.4K"), (1_719 * 10**9, "1.719T")],
)
def test_format(tokens, text):
    assert format_tokens(tokens) == text
