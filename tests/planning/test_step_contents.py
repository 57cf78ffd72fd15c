"""`modernbert plan` names the documents that the run has trained on."""

import json
import logging
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from data_prep.cli import main as data_prep
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.data.inputs import open_inputs
from modernbert_train.planning import step_contents as module
from modernbert_train.planning.step_contents import _positions, step_contents
from modernbert_train.training.train import build_loader, plan_run, train
from tests.helpers.external import with_specials, write_mds
from tests.helpers.recipes import skewed_documents
from tests.helpers.worlds import texts_of

OPTIONS = [
    "data.skip.steps=[6-8]",
    "data.skip.documents=[web:0-99]",
    "phases.extension.mixture.temperature=0.3",
]


@pytest.fixture(scope="module")
def run(tiny):
    return train(load_recipe(tiny, OPTIONS))


def texts_named(found):
    """Return the ids of the trained pieces; the words of the tiny tokenizer are w5, w6, ..."""
    kept = zip(found.pieces, found.texts, found.skipped_pieces, strict=True)
    return [[int(word) for word in text.split("w")[1:]] for _, text, skipped in kept if not skipped]


def test_every_step_of_a_run(tiny, run):
    recipe = load_recipe(run / "recipe.yaml")
    inputs = open_inputs(recipe)
    with closing(inputs.reader):
        planned = plan_run(recipe, inputs, "cpu")
        loader = build_loader(planned)
        for batch in loader:
            step = loader.dataset.step
            found = step_contents(recipe, step, with_text=True)
            assert texts_named(found) == list(texts_of(batch, inputs.tokenizer)), step
            assert (found.phase, found.rows) == (
                planned.schedule.phase_of(step - 1).name,
                len(batch["input_ids"]),
            )
            assert not found.skipped
    assert step == 22
    assert step_contents(recipe, 7).skipped


@pytest.mark.parametrize("step", [1, 5, 8, 14, 15, 21])
def test_with_and_without_positions(tiny, run, tmp_path, step, caplog):
    """Checkpoints follow steps 9 (6 is skipped), 10, 14, 18 and 22."""
    caplog.set_level(logging.INFO)
    near = step_contents(load_recipe(run / "recipe.yaml"), step)
    start = {1: "phase pretrain", 15: "phase extension", 21: "step 18 "}.get(step)
    assert (
        start is None
        or f"counting rows from {'' if 'step' in start else 'the start of the '}{start}" in caplog.text
    )
    far = step_contents(load_recipe(tiny, [*OPTIONS, f"run_folder={tmp_path}/none"]), step)
    assert near == far
    assert near.pieces


def test_positions_of_other_data_are_not_used(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    shutil.copytree(run, tmp_path / "run")
    recipe = load_recipe(tmp_path / "run/recipe.yaml", ["seed=18", f"run_folder={tmp_path}/run"])
    assert step_contents(recipe, 13).pieces
    assert "counting rows from the start of the phase pretrain" in caplog.text


def test_several_processes(tiny, tmp_path, monkeypatch):
    recipe = load_recipe(tiny, [f"run_folder={tmp_path}/none"])
    alone = step_contents(recipe, 13)
    monkeypatch.setattr(module, "_QUICK_TOKENS", 0)
    assert step_contents(recipe, 13, workers=2) == alone


def test_external_stores(tiny, tmp_path, capsys):
    """External stores, with one document per sample and special tokens in it, are named and decoded as well."""
    documents = skewed_documents(120, 5)
    write_mds(tmp_path / "mds/train/web", with_specials(documents), shard_bytes=4_000)
    tokenizer = ["--tokenizer", str(tiny.parent / "tokenizer")]
    assert data_prep(["index", str(tmp_path / "mds"), "--out", str(tmp_path / "out"), *tokenizer]) == 0
    options = [
        f"data.sources.web.store={tmp_path}/out",
        "phases.pretrain.mixture.code=null",
        "run_folder=none",
    ]
    found = step_contents(load_recipe(tiny, options), 9, with_text=True)
    assert texts_named(found) == [
        documents[piece.document][piece.start :][: piece.tokens] for piece in found.pieces
    ]
    assert len({piece.shard for piece in found.pieces}) > 3
    assert {Path(piece.file).parent for piece in found.pieces} == {tmp_path / "mds/train/web"}
    assert all(Path(piece.file).is_file() for piece in found.pieces)


def test_on_the_command_line(tiny, run, capsys):
    recipe = str(run / "recipe.yaml")
    assert main(["plan", recipe, "--step", "12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["phase"], found["rows"], found["skipped"]) == (12, "pretrain", 8, False)
    piece = found["pieces"][0]
    assert piece["name"] == f"{piece['source']}:{piece['document']}"
    assert "text" not in piece
    assert any(piece["skipped"] for piece in found["pieces"])
    assert all(
        piece["skipped"] == (piece["source"] == "web" and piece["document"] < 100)
        for piece in found["pieces"]
    )

    assert main(["plan", recipe, "--step", "7", "--text"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("step 7 of 22, phase pretrain: 8 rows, ")
    assert table[0].endswith("(skipped by data.skip.steps: not trained on)")
    assert sum(line.split()[0] in ("web", "code") for line in table[1:3]) == 2
    assert "web/train/shard.00000.mds" in "".join(table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "23"], "--step is 23: the run has the steps 1 to 22, counted as in the logs"),
        (["--step", "0"], "--step is 0: the run has the steps 1 to 22"),
        (["--step", "3", "--workers", "0"], "--workers is 0, must be at least 1"),
        (
            ["--step", "3", "data.skip.step=[1]"],
            "data.skip.step is not a field of a recipe; did you mean steps?",
        ),
    ],
)
def test_mistakes(tiny, capsys, arguments, message):
    assert main(["plan", str(tiny), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("positions", [None, 3, [1], [[1]], [["x", 1]], {"a": 1}])
def test_damaged_positions_are_passed_over(positions):
    assert _positions({"step": 3, "positions": positions}) == {}
