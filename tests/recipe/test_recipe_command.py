"""`modernbert recipe`: what it writes loads, is planned, and trains."""

import re

import numpy as np
import pytest

from modernbert_train.checkpoints.recipes import load_run_recipe
from modernbert_train.cli import main
from modernbert_train.config import validate
from modernbert_train.recipe import command
from modernbert_train.store.tokenizer import copy_tokenizer
from tests.helpers.launching import read_steps
from tests.helpers.recipes import skewed_documents
from tests.helpers.stores import make_plan_store, make_store, make_tokenizer

TOKENS = {"40K": 40_000, "400K": 400_000, "4M": 4_000_000, "20M": 20_000_000, "40M": 40_000_000}


def lengths(tokens, seed):
    drawn = (
        np.random.default_rng(seed).lognormal(np.log(300), 1.2, tokens // 100 + 2).clip(3, 20_000).astype(int)
    )
    return drawn[: int(np.searchsorted(np.cumsum(drawn), tokens)) + 1]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    tokenizer = make_tokenizer(folder / "tokenizer")
    for name, tokens in TOKENS.items():
        sources = {
            "web": {"train": lengths(tokens * 7 // 10, 1), "valid": lengths(tokens // 50, 2)},
            "code": {"train": lengths(tokens * 3 // 10, 3)},
        }
        make_plan_store(folder / name, tokenizer, sources)
    return folder


def written(capsys, folder, *arguments):
    assert main(["recipe", *map(str, arguments)]) == 0
    path = folder / "my.yaml"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize(
    "machine", [["--cpu"], ["--gpus", "1"], ["--gpus", "8"], ["--gpus", "512"]], ids=" ".join
)
@pytest.mark.parametrize("name", TOKENS)
def test_every_recipe_can_be_trained(stores, tmp_path, monkeypatch, capsys, caplog, name, machine):
    monkeypatch.setattr(command, "measure_cpu_tokens_per_s", lambda model: 5_000.0)
    path = written(capsys, tmp_path, stores / name, "--hours", 1, *machine)
    assert max(map(len, path.read_text().replace(str(stores), "stores").splitlines())) <= 120
    recipe = load_run_recipe(path)
    (ranks,) = re.findall(r"on (?:this machine's|(\d+)) (?:CPU|GPU)", path.read_text())
    assert validate(recipe, int(ranks or 1)) == []
    assert "train THIS_FILE --dry-run" in path.read_text()
    assert ("the text is the limit" in caplog.text) == (machine != ["--cpu"] or TOKENS[name] < 10**7)
    assert main(["train", str(path), "--dry-run", "--tokens-per-second", "1000"]) == 0
    shown = capsys.readouterr().out
    assert "fill of the rows" in shown
    assert "WARNING" not in shown  # no source is read more than 4 times


def test_a_recipe_trains_to_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    for name, count in (("one", 60), ("two", 20)):
        splits = {"train": skewed_documents(count, 1), "valid": skewed_documents(10, 2)}
        make_store(tmp_path / name, tokenizer, {"web": splits, "epochs": splits})
        copy_tokenizer(tokenizer.path, tmp_path / name)
    with pytest.raises(SystemExit):
        main(["recipe", "one", "--gpus", "1", "--cpu"])
    # The speed of this CPU is measured here.
    path = written(capsys, tmp_path, "one", "two", "one", "--cpu", "--hours", 0.002)
    recipe = load_run_recipe(path)
    assert list(recipe.data.sources) == ["web", "epochs-2", "web-2", "epochs-3"]
    assert main(["train", str(path), "training.progress_bar=false", "training.log_every_steps=1"]) == 0
    steps = read_steps(tmp_path / "runs/one")
    assert [steps[0]["phase"], steps[-1]["phase"]] == ["pretrain", "decay"]
    # Going on from these weights: the model is theirs.
    path = written(capsys, tmp_path, "two", "--gpus", "1", "--init", "runs/one")
    again = load_run_recipe(path)
    assert "\nmodel:" not in path.read_text()
    assert again.model.hidden_size == recipe.model.hidden_size
    assert again.init.from_ == "runs/one"
    assert not again.init.transplant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "store: nowhere does not exist"),
        (["empty"], "empty: there are no tokens to train on"),
        (["empty", "--init", "nowhere"], "empty: there are no tokens"),
        (["some", "--init", "nowhere"], "--init: "),
        (["some", "other"], "other was made with another tokenizer than some"),
    ],
)
def test_errors(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    other = make_tokenizer(tmp_path / "another", num_words=100)
    make_plan_store(tmp_path / "empty", tokenizer, {})
    make_plan_store(tmp_path / "some", tokenizer, {"web": {"train": [100] * 10}})
    make_plan_store(tmp_path / "other", other, {"web": {"train": [100] * 10}})
    assert main(["recipe", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_hours_must_be_positive(capsys, hours):
    with pytest.raises(SystemExit):
        main(["recipe", "store", f"--hours={hours}"])
    assert "must be a number greater than 0" in capsys.readouterr().err
