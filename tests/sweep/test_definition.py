import pytest

from modernbert_train.config import load_recipe
from modernbert_train.sweep.definition import read_sweep
from tests.helpers.little_recipe import YAML, write
from tests.helpers.sweeps import write_sweep

PART = "model: {mlp: gelu, intermediate_size: 24}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write(tmp_path, YAML)
    write(tmp_path, PART, "parts/gelu.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(here, text, *overrides, **options):
    return read_sweep(
        write_sweep(here, "base: little.yaml\n" + text, "sweep.yaml"), list(overrides), **options
    )


def test_a_grid_by_hand(folder):
    sweep = read(
        folder,
        """
overrides: [phases.pretrain.tokens=8K]
grid:
  model.local_attention: [32, 64]
  mlp: {gated: [], plain: [include=parts/gelu.yaml, model.bias=true]}
cells: {all-global: [model.global_attn_every_n_layers=1], as-it-is: }
seeds: [3, 5]
""",
    )
    assert [(cell.name, cell.series, cell.label) for cell in sweep.cells] == [
        ("local_attention-32__gated", "local_attention-32", "gated"),
        ("local_attention-32__plain", "local_attention-32", "plain"),
        ("local_attention-64__gated", "local_attention-64", "gated"),
        ("local_attention-64__plain", "local_attention-64", "plain"),
        ("all-global", "", "all-global"),
        ("as-it-is", "", "as-it-is"),
    ]
    assert sweep.name == "sweep"
    assert {run.recipe.phases["pretrain"].tokens for run in sweep.runs} == {8_000}
    plain, seed_5 = sweep.cells[1].runs
    assert (plain.recipe.model.local_attention, plain.recipe.model.mlp) == (32, "gelu")
    assert (plain.recipe.model.intermediate_size, plain.recipe.model.bias) == (24, True)
    assert (plain.seed, plain.recipe.seed, seed_5.recipe.seed) == (3, 3, 5)
    assert plain.recipe.run_folder == "sweeps/sweep/local_attention-32__plain/seed-3"
    assert plain.recipe.name == "sweep.local_attention-32__plain.seed-3"
    assert sweep.cells[0].runs[0].recipe.model.mlp == "geglu"


def test_a_run_is_its_base_and_overrides(folder):
    """`modernbert train BASE OVERRIDES` loads the recipe that the sweep has checked."""
    (run,) = read(folder, "cells: {a: [include=parts/gelu.yaml]}").runs
    assert load_recipe("little.yaml", list(run.overrides)) == run.recipe
    assert run.seed == load_recipe("little.yaml").seed  # without seeds, that of the recipe


def test_later_overrides_win(folder):
    text = "overrides: [optimizer.eps=1e-7]\ncells: {a: [optimizer.eps=1e-8], b: []}"
    assert [run.recipe.optimizer.eps for run in read(folder, text).runs] == [1e-8, 1e-7]
    sweep = read(folder, "cells: {a: [optimizer.eps=1e-8]}", "optimizer.eps=1e-9", folder="elsewhere/{name}")
    assert sweep.runs[0].recipe.optimizer.eps == 1e-9
    assert sweep.runs[0].recipe.run_folder == "elsewhere/sweep/a/seed-17"


def test_names_of_values(folder):
    text = """
grid:
  phases.pretrain.mask_rate: [0.15]
  evaluation.mask_rate: [0.2]
  optimizer.betas: [[0.9, 0.95]]
  phases.pretrain.tokens: [8K]
"""
    (cell,) = read(folder, text).cells
    assert cell.name == "pretrain.mask_rate-0.15__evaluation.mask_rate-0.2__betas-0.9-0.95__tokens-8K"
    recipe = cell.runs[0].recipe
    assert (recipe.optimizer.betas, recipe.phases["pretrain"].tokens) == ((0.9, 0.95), 8_000)
    assert (recipe.phases["pretrain"].mask_rate, recipe.evaluation.mask_rate) == (0.15, 0.2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gird: {}\ncells: {a: []}", "sweep.yaml: gird is not a field of a sweep; did you mean grid?"),
        ("", "sweep.yaml: there is neither grid nor cells; add at least one setting"),
        ("grid: [a]", "grid is ['a'], expected keys with a list of values each"),
        ("grid: {model.mlp: gelu}", "grid.model.mlp is 'gelu', expected a list of values"),
        ("grid: {model.mlp: []}", "grid.model.mlp is [], expected a list of values"),
        ("grid: {a: {b: c}}", "grid.a is {'b': 'c'}, expected a list of values, or names with a list"),
        ("cells: [a]", "cells is ['a'], expected names with a list of overrides each"),
        ("cells: {a: seed=1}", "cells is {'a': 'seed=1'}, expected names with a list of overrides each"),
        ("cells: {a: []}\noverrides: seed=1", "overrides is 'seed=1', expected a list of overrides"),
        ("cells: {a: []}\nseeds: [1, 1]", "seeds is [1, 1], expected a list of different whole numbers"),
        ("cells: {a: []}\nseeds: 3", "seeds is 3, expected a list of different whole numbers"),
        ("cells: {a: []}\nseeds: [x]", "seeds is ['x'], expected a list of different whole numbers"),
        ("cells: {a: []}\nfolder: [x]", "folder is ['x'], expected a path"),
        ("cells: {a b: []}", "a cell is named 'a b', which cannot be the name of a folder; use letters"),
        ("cells: {a: [name=x]}", "cell a: 'name=x': name is set by the sweep; it follows from the cell"),
        ("cells: {a: [seed=1]}", "cell a: 'seed=1': seed is set by the sweep; list it under seeds"),
        (
            "cells: {a: []}\noverrides: [run_folder=x]",
            "overrides: 'run_folder=x': run_folder is set by the sweep",
        ),
        ("cells: {a: [model.mpl=gelu]}", "cell a: model.mpl is not a field of a recipe; did you mean mlp?"),
        ("cells: {a: [model.mlp=relu]}", "cell a: model.mlp is 'relu', expected one of"),
        ("cells: {a: [model.local_attention=63]}", "cell a: model.local_attention is 63: "),
        ("cells: {a: [model.mlp]}", "cell a: 'model.mlp' is not an override; write key=value"),
        ("cells: {a: [include=parts/no.yaml]}", "parts/no.yaml: there is no such file"),
        (
            "grid: {model.local_attention: [64, 63], model.mlp: [geglu, gelu]}",
            "cells local_attention-63__mlp-geglu, local_attention-63__mlp-gelu: model.local_attention is 63: ",
        ),
        (
            "overrides: [optimizer.epz=1]\ncells: {a: [], b: [model.mlp=gelu]}",
            "every cell: optimizer.epz is not a field of a recipe; did you mean eps?",
        ),
        ("grid: {model.local_attention: [64, 64]}", "2 cells are named 'local_attention-64'; rename"),
        (
            "cells: {a: [], b: [model.mlp=geglu]}",
            "cells a and b are equivalent: they would train the same model",
        ),
        (
            "overrides: [model.global_attn_every_n_layers=1]\ngrid: {model.local_attention: [64, 128]}",
            "cells local_attention-64 and local_attention-128 are equivalent: ",
        ),
        (
            "overrides: [phases.pretrain.objective=clm]\ncells: {a: [], b: [phases.pretrain.mask_rate=0.2]}",
            "cells a and b are equivalent: ",
        ),
        (
            "overrides: [model.positions=learned]\ncells: {a: [], b: [phases.extension.global_rope_theta=1e5]}",
            "cells a and b are equivalent: ",
        ),
    ],
)
def test_what_is_refused_and_how(folder, text, problem):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is looked at below
        read(folder, text)
    assert problem in str(error.value)
    assert "sweep.yaml" in str(error.value)
    assert "command line" not in str(error.value)


def test_all_problems_are_listed_at_once(folder):
    with pytest.raises(ValueError, match="2 problems") as error:
        read(folder, "cells: {a: [model.mpl=gelu], b: [], c: [optimizer.eps=0]}")
    assert "cell a: " in str(error.value)
    assert "cell c: optimizer.eps is 0.0: " in str(error.value)


def test_files_that_are_not_a_sweep(folder):
    with pytest.raises(ValueError, match=r"nowhere\.yaml: there is no such file"):
        read_sweep("nowhere.yaml")
    with pytest.raises(ValueError, match="a sweep is a mapping"):
        read_sweep(write_sweep(folder, "[a]"))
    with pytest.raises(ValueError, match="base is None, expected the path of a recipe"):
        read_sweep(write_sweep(folder, "cells: {a: []}"))
    with pytest.raises(ValueError, match=r"no\.yaml \(base of .*little\.yaml\): there is no such file"):
        read_sweep(write_sweep(folder, "base: no.yaml\ncells: {a: []}"))
    with pytest.raises(ValueError, match=r"[Dd]uplicate key"):
        read(folder, "cells:\n  a: []\n  a: [model.mlp=gelu]")
