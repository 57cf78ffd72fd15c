import re

import pytest

from modernbert_train.config import SkipConfig, load_recipe
from modernbert_train.config.skip import (
    format_range,
    join_ranges,
    parse_documents,
    parse_range,
    skipped_steps,
)
from tests.helpers.little_recipe import write


@pytest.mark.parametrize(
    ("text", "numbers"), [("7", range(7, 8)), ("5-9", range(5, 10)), (" 3-3 ", range(3, 4))]
)
def test_ranges(text, numbers):
    assert parse_range(text) == numbers
    assert parse_range(format_range(numbers)) == numbers


def test_documents_of_a_source():
    assert parse_documents("web:17") == ("web", range(17, 18))
    assert parse_documents("web:20-29") == ("web", range(20, 30))


def test_ranges_are_joined_where_they_meet_or_overlap():
    parts = [range(8, 10), range(1, 4), range(4, 5), range(2, 3), range(20, 21)]
    assert join_ranges(parts) == (range(1, 5), range(8, 10), range(20, 21))


def test_steps_count_from_one_in_a_recipe_and_from_zero_in_a_plan(tmp_path):
    recipe = load_recipe(write(tmp_path), ["data.skip.steps=[12-14, 7, 15]"])
    assert recipe.data.skip == SkipConfig(steps=["12-14", "7", "15"])
    assert skipped_steps(recipe.data.skip) == (range(6, 7), range(11, 15))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.skip.steps=[0]", "data.skip.steps has '0': steps count from 1, as in the logs"),
        ("data.skip.steps=[9-5]", "data.skip.steps has '9-5': the range ends before it begins; write 5-9"),
        ("data.skip.steps=[-5]", "data.skip.steps has '-5': expected a number such as 1500, or a range"),
        ("data.skip.steps=[2.5]", "data.skip.steps has '2.5': expected a number such as 1500"),
        ("data.skip.steps=7", "data.skip.steps is 7, expected a list of texts"),
        ("data.skip.documents=[17]", "data.skip.documents has '17': expected a source and a number such as web:17"),
        ("data.skip.documents=[web:x]", "data.skip.documents has 'web:x': expected a number"),
        ("data.skip.documents=[wab:1]", "has 'wab:1': 'wab' is not in data.sources; the sources are web, code"),
        ("data.warn_epochs=0", "data.warn_epochs is 0.0: must be above 0"),
        ("data.skip.step=[7]", "data.skip.step is not a field of a recipe; did you mean steps?"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe(write(tmp_path), [override])
