import pytest

from modernbert_train.config import dump_recipe, load_recipe
from tests.helpers.little_recipe import YAML, write

DECAY = """  decay:
    tokens: 640
    mask_rate: 0.15
"""


@pytest.fixture
def path(tmp_path):
    return write(tmp_path, YAML + DECAY)


def test_it_inherits_as_in_the_whole_recipe(path):
    whole = load_recipe(path).phases
    for name in whole:
        alone = load_recipe(path, [f"phase={name}", "init.from=runs/little"])
        assert alone.phases == {name: whole[name]}


def test_a_change_of_an_earlier_phase_is_inherited(path):
    alone = load_recipe(path, ["phase=decay", "init.from=x", "phases.pretrain.weight_decay=0.5"])
    assert (alone.phases["decay"].weight_decay, alone.phases["decay"].context_tokens) == (0.5, 32)


@pytest.mark.parametrize(
    ("run_folder", "phase", "expected"),
    [
        ("runs/{name}", "decay", "runs/little-decay"),
        ("/disk/{name}/first", "decay", "/disk/little-decay/first"),
        ("/disk/here", "extension", "/disk/here-extension"),
        ("/disk/here/", "extension", "/disk/here-extension"),
        ("/disk/here/", "null", "/disk/here/"),
        ("runs/{name}", "null", "runs/little"),
    ],
)
def test_it_has_its_own_run_folder(path, run_folder, phase, expected):
    assert (
        load_recipe(path, [f"phase={phase}", "init.from=x", f"run_folder={run_folder}"]).run_folder
        == expected
    )


def test_a_dumped_recipe_loads_as_an_equal_one(path, tmp_path):
    alone = load_recipe(path, ["phase=decay", "init.from=x", "run_folder=/disk/here"])
    assert load_recipe(write(tmp_path, dump_recipe(alone), "dumped.yaml")) == alone


def test_the_first_phase_needs_no_init(path):
    assert list(load_recipe(path, ["phase=pretrain"]).phases) == ["pretrain"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["phase=decya", "init.from=x"], "phase is 'decya', which is not in phases; did you mean decay?"),
        (
            ["phase=last"],
            "phase is 'last', which is not in phases; the phases are pretrain, extension, decay",
        ),
        (
            ["phase=decay"],
            "phase is decay, which continues from the weights of phase extension, but init.from is not set; "
            "name a run folder or a checkpoint, such as init.from=runs/little",
        ),
    ],
)
def test_mistakes(path, overrides, message):
    with pytest.raises(ValueError, match="phase is") as error:
        load_recipe(path, overrides)
    assert message in str(error.value)
