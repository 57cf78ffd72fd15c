"""The three forms of a mixture: reading, overriding, dumping and rejecting them."""

import pytest
import yaml

from modernbert_train.config import MixtureConfig, dump_recipe, load_recipe
from modernbert_train.config.mixture import describe_mixture
from tests.helpers.little_recipe import YAML, write

SHARES = "mixture: {web: 3, code: 1}"


def mixtures(folder, written, *overrides):
    """Return the mixtures of both phases when that of the first is `written`."""
    recipe = load_recipe(write(folder, YAML.replace(SHARES, f"mixture: {written}")), list(overrides))
    return [phase.mixture for phase in recipe.phases.values()]


def message(folder, written, *overrides):
    with pytest.raises(ValueError, match=r"mixture") as caught:
        mixtures(folder, written, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{web: 3, code: 1}", MixtureConfig(shares={"web": 0.75, "code": 0.25})),
        ("{epochs: {web: 1, code: 2.5}}", MixtureConfig(epochs={"web": 1.0, "code": 2.5})),
        ("{temperature: 0.3}", MixtureConfig(temperature=0.3)),
        ("{temperature: 0, sources: [code]}", MixtureConfig(temperature=0.0, sources=["code"])),
    ],
)
def test_forms(tmp_path, written, expected):
    assert mixtures(tmp_path, written) == [expected, expected]  # the second phase inherits it
    recipe = load_recipe(tmp_path / "little.yaml")
    dumped = dump_recipe(recipe)
    assert "shares" not in dumped
    assert None not in yaml.safe_load(dumped)["phases"]["pretrain"]["mixture"].values()
    assert load_recipe(write(tmp_path, dumped, "dumped.yaml")) == recipe


def test_another_form_replaces_the_mixture_of_an_included_file(tmp_path):
    write(tmp_path, YAML, "base.yaml")
    text = "include: base.yaml\nphases: {pretrain: {mixture: {temperature: 0.5}}}"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.phases["pretrain"].mixture == MixtureConfig(temperature=0.5)
    back = load_recipe(tmp_path / "little.yaml", ["phases.pretrain.mixture={web: 1}"])
    assert back.phases["pretrain"].mixture == MixtureConfig(shares={"web": 1.0})


def test_the_same_form_is_merged_source_by_source(tmp_path):
    epochs = "{epochs: {web: 1, code: 2}}"
    pretrain, _ = mixtures(tmp_path, epochs, "phases.pretrain.mixture.epochs.code=4")
    assert pretrain == MixtureConfig(epochs={"web": 1.0, "code": 4.0})
    pretrain, _ = mixtures(tmp_path, epochs, "phases.pretrain.mixture.epochs.code=null")
    assert pretrain == MixtureConfig(epochs={"web": 1.0})
    pretrain, _ = mixtures(tmp_path, "{temperature: 0.3}", "phases.pretrain.mixture.sources=[web]")
    assert pretrain == MixtureConfig(temperature=0.3, sources=["web"])


def test_a_phase_may_have_another_mixture_than_the_one_before(tmp_path):
    override = "phases.extension.mixture.temperature=0.3"
    assert mixtures(tmp_path, "{web: 1}", override) == [
        MixtureConfig(shares={"web": 1.0}),
        MixtureConfig(temperature=0.3),
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{web: 1, temperature: 0.3}", "mixture has shares and temperature: these are different forms"),
        ("{epochs: {web: 1}, temperature: 0.3}", "mixture has epochs and temperature: "),
        ("{}", "mixture is empty: give each source a share"),
        ("{epochs: {}}", "mixture is empty: "),
        ("{epochs: {web: -1}}", "mixture.epochs.web is -1.0: must be a finite number above 0"),
        ("{epochs: {web: 0}}", "mixture.epochs.web is 0.0: must be a finite number above 0"),
        ("{epochs: {wbe: 1}}", "mixture.epochs names 'wbe', which is not in data.sources; did you mean web?"),
        ("{epochs: {web: often}}", "mixture.epochs.web is 'often', expected a number"),
        ("{epochs: 2}", "mixture.epochs is 2, expected a section with keys of its own"),
        ("{temperature: 3.3}", "temperature is 3.3: must be from 0 (equal shares) to 1"),
        ("{temperature: -0.1}", "temperature is -0.1: must be from 0"),
        ("{temperature: .nan}", "temperature is nan: must be from 0"),
        ("{temperature: low}", "mixture.temperature is 'low', expected a number or null"),
        ("{sources: [web]}", "mixture.sources is set, but phases.pretrain.mixture.temperature is not; set both"),
        ("{temperature: 0.3, sources: []}", "mixture.sources is empty: name at least one source, or leave it out"),
        ("{temperature: 0.3, sources: [web, web]}", "name each source once"),
        ("{temperature: 0.3, sources: [cod]}", "mixture.sources names 'cod', which is not in"),
        ("{web: 0, code: 1}", "mixture.web is 0.0: must be a finite number above 0, or null"),
        ("{passes: {web: 1}}", "phases.pretrain.mixture.passes is {'web': 1}, expected a number"),
        ("{web: [1]}", "phases.pretrain.mixture.web is [1], expected a number"),
        ("{web: lots}", "phases.pretrain.mixture.web is 'lots', expected a number"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, written, expected):
    text = message(tmp_path, written)
    assert expected in text
    assert "mixture.shares" not in text


@pytest.mark.parametrize(
    ("written", "override", "expected"),
    [
        ("{epochs: {web: 1}}", "phases.pretrain.mixture.web=2", "epochs; to switch to shares"),
        ("{temperature: 0.3}", "phases.pretrain.mixture.web=2", "temperature; to switch to shares"),
        ("{web: 1}", "phases.pretrain.mixture.epochs.code=2", "shares; to switch to epochs"),
    ],
)
def test_an_override_of_one_source_does_not_replace_another_form(tmp_path, written, override, expected):
    text = message(tmp_path, written, override)
    start = "command line: phases.pretrain.mixture: the base recipe writes this mixture as"
    assert text == f"{start} {expected}, override the whole mixture: mixture={{...}}"


def test_a_temperature_replaces_shares_because_it_is_complete(tmp_path):
    assert mixtures(tmp_path, "{web: 1}", "phases.pretrain.mixture.temperature=1")[0].temperature == 1


def test_a_source_cannot_have_the_name_of_a_mixture_key(tmp_path):
    text = message(tmp_path, "{web: 1}", "data.sources.epochs={store: x}")
    assert text.endswith(
        "data.sources has the name 'epochs', which is a keyword of mixtures; rename the source"
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"web": 3, "code": 1}, "web 75%, code 25%"),
        ({"epochs": {"web": 1, "code": 2.5}}, "web x1, code x2.5"),
        ({"temperature": 0.3}, "temperature 0.3"),
        ({"temperature": 0.3, "sources": ["de", "fr"]}, "temperature 0.3 of de, fr"),
    ],
)
def test_describe_mixture(written, words):
    assert describe_mixture(written) == words
