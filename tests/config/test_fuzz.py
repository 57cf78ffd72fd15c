"""Recipes and overrides with values of any type and shape: a recipe, or an error in one line for each problem."""

import copy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modernbert_train.common.errors import is_ours
from modernbert_train.config import dump_recipe, load_recipe
from modernbert_train.config.fields import _all_paths
from modernbert_train.config.schema import Recipe
from tests.helpers.little_recipe import YAML, write

LONGEST_LINE = 1_500

# Of the little recipe, with fields that it leaves out.
BASE = yaml.safe_load(YAML) | {
    "optimizer": {"betas": [0.9, 0.98], "eps": 1e-6},
    "evaluation": {"every_tokens": "1K"},
    "training": {"precision": "bf16", "device": "cpu"},
    "wandb": {"project": None, "tags": ["a"]},
    "masking": {"mask_fraction": 0.8},
}
BASE["data"] |= {"skip": {"steps": ["3", "5-7"], "documents": ["web:1-2"]}, "cache": {"limit_bytes": "1GB"}}
BASE["phases"]["pretrain"] |= {"batch_ramp": {"start_tokens": 64, "tokens": "1K"}, "warmup_tokens": 128}
PATHS = sorted(_all_paths(Recipe, ()))

words = st.sampled_from(
    ["", "auto", "null", "store", "web", "shares", "epochs", "temperature", "include", "from", "1K", "1.5M", "-3",
     "1e999", "3-1", "web:3", "a.b", "${name}", "${training.precision}", "${oc.env:HOME}", "${", "???", "é", "\n",
     "0x10", "yes"]
)  # fmt: skip
scalars = st.one_of(
    words,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 300),
    st.floats(),
    st.sampled_from([0, 2**31, 2**64, 10**30, 1e300, -0.0]),
    st.dates(),
    st.text(max_size=5).filter(lambda text: text.isprintable()),
)
keys = st.one_of(words, st.integers(-1, 3), st.none(), st.booleans(), st.floats(allow_nan=False))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)


def places(values, path=()):
    """Return the paths of everything in nested mappings and lists."""
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@st.composite
def recipes(draw):
    """Return a valid recipe with one to four changes anywhere."""
    recipe = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(1, 4))):
        *path, key = draw(st.sampled_from(places(recipe)[1:]))
        around = recipe
        for step in path:
            around = around[step]
        change = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if change == "remove":
            del around[key]
        elif change == "add" and isinstance(around, dict):
            around[draw(keys)] = draw(values)
        else:
            around[key] = draw(values)
    return recipe


@st.composite
def overrides(draw):
    """Return a field, often one that exists, with a value in YAML, or any text."""
    path = (
        draw(st.sampled_from(PATHS))
        .replace("sources.NAME", "sources.web")
        .replace("phases.NAME", "phases.pretrain")
    )
    path = path.replace("mixture.shares.NAME", "mixture.web").replace("NAME", "web")
    path += draw(st.sampled_from(["", "", "", "", ".0", ".a", ".tokens", "."]))
    text = st.text(alphabet="[]{}:,'\"!&*|>%@`- \n#?a1.", max_size=12)
    flow = values.map(
        lambda value: yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n")
    )
    value = draw(st.one_of(flow, words, text, text.map(lambda tail: f"!!int {tail}")))
    return draw(st.sampled_from([f"{path}={value.strip()}", f"{path}={value}", f"{path}={value}", value]))


def check(folder, written, given_overrides=()):
    """Load a recipe; it must be one that is dumped and scheduled, or fail with lines for a user."""
    try:
        recipe = load_recipe(write(folder, written), list(given_overrides))
    except ValueError as caught:
        error = caught
    else:
        assert load_recipe(write(folder, dump_recipe(recipe), "dumped.yaml")) == recipe
        return
    assert is_ours(error), error
    first, *others = str(error).splitlines()
    assert all(line.startswith("  - ") for line in others), error
    assert max(map(len, (first, *others))) < LONGEST_LINE


def fuzz(count):
    # The folder is used anew by every example.
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=count, deadline=None, suppress_health_check=checks, derandomize=count < 1_000
    )


counts = pytest.mark.parametrize(
    "count", [60, pytest.param(5_000, marks=[pytest.mark.slow, pytest.mark.timeout(7_200)])]
)


def test_the_recipe_without_changes_is_valid(tmp_path):
    assert load_recipe(write(tmp_path, yaml.safe_dump(BASE, sort_keys=False))).name == "little"


@counts
def test_recipes(tmp_path, count):
    @fuzz(count)
    @given(recipes())
    def run(recipe):
        check(tmp_path, yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))

    run()


@counts
def test_overrides(tmp_path, count):
    written = yaml.safe_dump(BASE, sort_keys=False)

    @fuzz(count)
    @given(st.lists(overrides(), min_size=1, max_size=3))
    def run(given_overrides):
        check(tmp_path, written, given_overrides)

    run()


@pytest.mark.parametrize(
    "override",
    [
        "phases.pretrain.mixture={sci: {'': 1}}",
        "phases.pretrain.mixture.web={'': 1}",
        "optimizer.betas=[{store: x}, .98]",
        "optimizer.betas={a: 1}",
        "optimizer.betas.0=null",
        "optimizer.betas=[null, 0.9]",
        "optimizer.betas=[[0.9], 0.9]",
        "data.skip.documents={a: b}",
        "data.skip.documents=[{a: b}]",
        "data.skip.steps=[[1]]",
        "data.skip=!!int x",
        "wandb.tags=[null]",
        "seed=" + "[" * 5_000,
        "seed=" + "[" * 400 + "]" * 400,
        "seed=" + "{a: " * 400 + "1" + "}" * 400,
        "seed=" + "9" * 5_000,
        "phases.pretrain.tokens=" + "9" * 5_000,
        "phases.pretrain.tokens=1e999999999",
        "training." + "a." * 3_000 + "b=1",
        "seed=&a [*a]",
        "seed=!!python/object/apply:os.system [true]",
        "name=!!binary aGk=",
        "seed=2020-01-01",
        "seed=!!set {a}",
        "data=!!int",
        'phases={"a\n": {}}',
        '"\n"=1',
    ],
)
def test_what_once_ended_in_a_traceback(tmp_path, override):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is looked at
        load_recipe(write(tmp_path), [override])
    assert is_ours(caught.value), caught.value
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < LONGEST_LINE
