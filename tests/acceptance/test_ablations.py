"""Every shipped sweep can be read, and a tiny version of its cells trains."""

import functools
import math
import re
from pathlib import Path

import pytest

from modernbert_train.config import load_recipe
from modernbert_train.config.architecture import num_parameters
from modernbert_train.sweep.command import overview
from modernbert_train.sweep.definition import read_sweep
from modernbert_train.training.train import train
from tests.acceptance.test_recipes import BATCH, make_sources, tiny_overrides
from tests.helpers.launching import read_steps
from tests.helpers.stores import make_tokenizer

FOLDER = Path(__file__).parents[2] / "yamls/ablations"
SWEEPS = sorted(FOLDER.glob("*.yaml"))
# Several tests read the sweeps, which have dozens of recipes each.
read_shipped = functools.cache(read_sweep)
each_sweep = pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)


def test_the_list_of_sweeps():
    expected = {
        "attention",
        "mlp",
        "bert-vs-modernbert",
        "mask-rate",
        "decay-shape",
        "optimizer",
        "objective",
        "architecture",
    }
    assert {path.stem for path in SWEEPS} == expected


@each_sweep
def test_cells_and_seeds(path):
    sweep = read_shipped(path)
    assert len(sweep.cells) > 2
    assert {tuple(run.seed for run in cell.runs) for cell in sweep.cells} == {(17, 18, 19)}
    assert overview(sweep).startswith(f"{path.stem}: ")
    sizes = {cell.name: num_parameters(cell.runs[0].recipe.model) for cell in sweep.cells}
    assert max(sizes.values()) < 1.13 * min(sizes.values()), (
        "only the learned positions of BERT may add parameters"
    )
    assert len({sum(phase.tokens for phase in run.recipe.phases.values()) for run in sweep.runs}) == 1
    (stated,) = re.findall(r"^# (\d+) runs of ([\d.]+M) tokens", path.read_text(), re.MULTILINE)
    assert stated == (str(len(sweep.runs)), "1.5M" if path.stem == "architecture" else "1.9M")


@each_sweep
def test_cells_of_every_kind_train(path, tmp_path):
    """Train the first cell of each set of changed fields."""
    kinds = {}
    sweep = read_shipped(path)
    for cell in sweep.cells:
        own = [
            override
            for override in cell.runs[0].overrides
            if not override.startswith(("name=", "run_folder="))
        ]
        kinds.setdefault(tuple(override.partition("=")[0] for override in own), cell.runs[0])
    recipe = next(iter(kinds.values())).recipe
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    make_sources(recipe, tokenizer, tmp_path)
    for number, run in enumerate(kinds.values()):
        tiny = tiny_overrides(run.recipe, tokenizer, tmp_path, phase_tokens=2 * BATCH)
        tiny = [override for override in tiny if not override.startswith("model.local_attention=")]
        tiny.append(f"run_folder={tmp_path}/{number}")
        finished = train(load_recipe(sweep.base, [*run.overrides, *tiny]))
        assert all(math.isfinite(step["loss"]) for step in read_steps(finished))
