"""Every shipped YAML: recipes are valid, parts fit into a recipe, figures are those of their sources."""

from pathlib import Path

import pytest
import yaml

from modernbert_train.config import dump_recipe, load_recipe, validate
from modernbert_train.schedule import build_schedule
from tests.helpers.little_recipe import write
from tests.helpers.recipes import shipped_recipes

ROOT = Path(__file__).parents[2] / "yamls"
PARTS = sorted(path for folder in ("models", "data") for path in (ROOT / folder).glob("*.yaml"))
RECIPES = shipped_recipes()


def name(path):
    return str(path.relative_to(ROOT))


def test_the_lists_are_not_empty():
    assert {path.parent.name for path in RECIPES} >= {"yamls", "pretrain", "continue"}
    assert len(RECIPES) >= 14
    assert {path.stem for path in PARTS} >= {"tiny", "small", "base", "large", "quickstart", "bert-base-2018"}


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipes_are_valid_on_several_ranks(path, tmp_path):
    recipe = load_recipe(path)
    for world_size in {"quickstart": (1, 2), "ninety-minutes": (1, 2)}.get(recipe.name, (1, 3, 7, 16, 24)):
        assert validate(recipe, world_size) == []
    for phase in build_schedule(recipe).phases:
        assert abs(phase.num_tokens - phase.config.tokens) <= phase.config.batch_tokens / 2
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("path", PARTS, ids=name)
def test_parts_fit_into_a_recipe(path, tmp_path):
    part = yaml.safe_load(path.read_text())
    phases = part.pop("phases", {"only": {}})
    assert list(part) == [path.parent.name.removesuffix("s")]
    data = part.get("data", {"tokenizer": "store", "sources": {"web": {"store": "store"}}})
    for phase in phases.values():
        assert set(phase) <= {"mixture"}
        mixture = phase.get("mixture", dict.fromkeys(data["sources"], 1))
        phase.update(tokens="1B", batch_tokens=2**20, learning_rate=1e-3, mixture=mixture)
        phase["context_tokens"] = 512  # as long as the shortest table of positions
    recipe = {"include": str(path), "name": "whole", "data": data, "phases": phases}
    recipe |= {} if "model" in part else {"model": {"vocab_size": 1_024}}
    loaded = load_recipe(write(tmp_path, yaml.safe_dump(recipe)))
    assert validate(loaded, world_size=2) == []


def test_ettin_s_phases_make_one_run(tmp_path):
    """Data and mixture of every phase come from the parts; the recipe sets the rest."""
    parts = [str(ROOT / f"data/ettin-{name}.yaml") for name in ("pretraining", "extension", "decay")]
    phase = {"tokens": "1B", "batch_tokens": 2**20, "learning_rate": 1e-3}
    phases = dict.fromkeys(("pretrain", "extension", "decay"), phase)
    recipe = load_recipe(
        write(
            tmp_path,
            yaml.safe_dump(
                {"include": [*parts, str(ROOT / "models/small.yaml")], "name": "ettin", "phases": phases}
            ),
        )
    )
    assert validate(recipe, world_size=8) == []
    assert len(recipe.data.sources) == len({str(phase.mixture) for phase in recipe.phases.values()}) == 3


def test_the_paper_s_figures():
    base = build_schedule(load_recipe(ROOT / "pretrain/modernbert-base.yaml"))
    pretrain, extension, decay = base.phases
    assert [stage.batch_rows * 8 for stage in pretrain.step_ranges] == [768, 1536, 2304, 3072, 3840, 4608]
    assert extension.step_ranges[-1].batch_rows == decay.step_ranges[-1].batch_rows == 576
    assert base.total_tokens == pytest.approx(2.019e12, rel=1e-5)
    assert decay.learning_rate(decay.num_steps - 1) == pytest.approx(3e-4 * 0.001, rel=0.05)
    large = build_schedule(load_recipe(ROOT / "pretrain/modernbert-large.yaml"))
    assert [phase.config.learning_rate for phase in large.phases] == [5e-4, 5e-5, 5e-5, 5e-5]
    assert [phase.weight_decay for phase in large.phases] == [1e-5, 1e-6, 1e-6, 1e-6]
    assert large.total_tokens == pytest.approx(2e12, rel=1e-5)
