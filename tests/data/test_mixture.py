import pytest

from modernbert_train.config import MixtureConfig
from modernbert_train.data.mixture import resolve_shares

TOKENS = {"web": 900, "code": 100}


def test_shares_are_taken_as_they_are():
    assert resolve_shares(MixtureConfig(shares={"code": 1.0}), TOKENS) == {"code": 1.0}


def test_passes_weigh_a_source_by_its_size():
    # Once through web and three times through code: 900 + 300 tokens.
    assert resolve_shares(MixtureConfig(epochs={"web": 1, "code": 3}), TOKENS) == {"web": 0.75, "code": 0.25}
    assert resolve_shares(MixtureConfig(epochs={"web": 0.5, "code": 0.5}), TOKENS) == {
        "web": 0.9,
        "code": 0.1,
    }


@pytest.mark.parametrize(
    ("temperature", "web"),
    [
        (1.0, 0.9),  # in proportion to size
        (0.5, 0.75),  # 30 to 10
        (0.0, 0.5),  # all alike
    ],
)
def test_a_temperature_is_the_exponent_of_the_size(temperature, web):
    shares = resolve_shares(MixtureConfig(temperature=temperature), TOKENS)
    assert shares == {"web": web, "code": pytest.approx(1 - web)}


def test_a_temperature_among_some_of_the_sources():
    tokens = {**TOKENS, "science": 400}
    shares = resolve_shares(MixtureConfig(temperature=0.5, sources=["science", "code"]), tokens)
    assert shares == {"science": pytest.approx(2 / 3), "code": pytest.approx(1 / 3)}  # 20 to 10


def test_the_published_example():
    """XLM-R's exponent 0.3 on a hundred to one: 100^0.3 = 3.981."""
    shares = resolve_shares(MixtureConfig(temperature=0.3), {"en": 100_000, "sw": 1_000})
    assert shares["en"] / shares["sw"] == pytest.approx(3.981, abs=1e-3)


def test_shares_add_up_and_do_not_hang_on_the_last_bits_of_a_power():
    shares = resolve_shares(MixtureConfig(temperature=0.7), {f"s{n}": 10**n + 7 for n in range(3, 13)})
    assert abs(sum(shares.values()) - 1) < 1e-9
    assert all(share == float(f"{share:.12f}") for share in shares.values())
