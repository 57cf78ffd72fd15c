"""Text without a token that can be masked: [UNK] only, as of a script that the vocabulary lacks."""

import json
import logging

import pytest

from modernbert_train.checkpoints.run_files import read_metrics
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.convert.model_card import latest_evaluation
from modernbert_train.reporting.command import write_report
from modernbert_train.store.manifest import load_tokenizer_info
from modernbert_train.training.train import train
from tests.helpers.recipes import make_tiny
from tests.helpers.stores import make_store
from tests.helpers.weights import load_weights

UNKNOWN = [[0] * 40] * 100
# One held-out source has nothing to predict, and the second phase trains on nothing else.
OVERRIDES = [
    "data.sources.code=null", "data.sources.mute={store: {folder}/mute}", "phases.pretrain.batch_ramp=null",
    "phases.pretrain.tokens=8K", "phases.pretrain.mixture.code=null", "phases.extension.mixture={mute: 1}",
    "phases.extension.tokens=4K", "phases.extension.decay_tokens=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    recipe = make_tiny(folder)
    make_store(
        folder / "mute",
        load_tokenizer_info(folder / "tokenizer"),
        {"mute": {"train": UNKNOWN, "valid": UNKNOWN[:1]}},
    )
    return train(load_recipe(recipe, [text.replace("{folder}", str(folder)) for text in OVERRIDES]))


def test_training_and_evaluation_go_on(run, caplog):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert all(losses[:4])
    assert losses[4:] == [None, None]
    assert [line["eval"]["mute"] for line in lines if "eval" in line] == [None, None]
    assert all(line["eval"]["web"]["loss"] > 0 for line in lines if "eval" in line)
    assert all(weight.isfinite().all() for weight in load_weights(run)[0].values())


def test_readers_of_the_metrics_leave_the_source_out(run):
    assert [set(line["eval"]) for line in read_metrics(run / "metrics.jsonl").evaluations] == [
        {"web"},
        {"web"},
    ]
    assert set(latest_evaluation(run / "metrics.jsonl", load_weights(run)[1])["eval"]) == {"web"}
    assert all(file.is_file() for file in write_report([run]))


def test_evaluate_skips_the_source_and_scores_the_others(run, capsys, caplog):
    with caplog.at_level(logging.WARNING):
        assert main(["evaluate", str(run)]) == 0
    assert "mute is skipped: no token of its held-out text was chosen for prediction" in caplog.text
    table = capsys.readouterr().out
    assert "web " in table
    assert "mute" not in table
