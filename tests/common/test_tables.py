import json
import math

import pytest

from modernbert_train.common.tables import Column, MeanStd, Shown, Table

TABLE = Table(
    (Column("name"), Column("loss", ".2f"), Column("share", ".1%"), Column("tokens", ",")),
    (
        ("a|<b>\n&", 1.234, 0.5, 12_345),
        ("c", MeanStd(2.0, 0.5), None, Shown(2e9, "2B")),
        ("d", math.nan, MeanStd(0.25, None), 1),
    ),
    "title",
)


def test_texts_and_numbers_are_of_the_same_cells():
    assert TABLE.texts() == [
        ["a|<b>\n&", "1.23", "50.0%", "12,345"],
        ["c", "2.00 ± 0.50", "", "2B"],
        ["d", "", "25.0%", "1"],
    ]
    numbers = TABLE.numbers()
    assert numbers["columns"] == ["name", "loss", "share", "tokens"]
    assert numbers["rows"][1:] == [
        ["c", {"mean": 2.0, "std": 0.5}, None, 2e9],
        ["d", None, {"mean": 0.25, "std": None}, 1],
    ]
    assert json.dumps(numbers, allow_nan=False)


def test_markdown_cells_stay_cells():
    lines = TABLE.markdown().splitlines()
    assert lines[2] == "| a\\|&lt;b> &amp; | 1.23 | 50.0% | 12,345 |"
    assert len(lines) == 5


def test_mean_and_deviation():
    assert MeanStd.of([1.0, 2.0]) == MeanStd(1.5, pytest.approx(0.5**0.5))
    assert MeanStd.of([3.0]).text("+.1f") == "+3.0"
