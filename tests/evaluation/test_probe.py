"""Probes of frozen states."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from modernbert_train.checkpoints.hf.transformers_model import load_masked_lm
from modernbert_train.checkpoints.run_files import read_watch
from modernbert_train.checkpoints.source import build_encoder, open_weights
from modernbert_train.cli import main
from modernbert_train.cli.paths import sort_probe_arguments
from modernbert_train.config import ModelConfig
from modernbert_train.evaluation.probe import _PENALTY, _fit, format_probes, open_task
from modernbert_train.evaluation.states import our_pooler, pool_documents, transformers_pooler
from tests.helpers import hub
from tests.helpers.exported import random_weights, write_checkpoint_of

MODEL = ModelConfig(
    vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    local_attention=16,
)  # fmt: skip


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of which knows nothing, a BERT folder, and tasks that a bag of letters can solve."""
    folder = tmp_path_factory.mktemp("probe")
    weights = random_weights(MODEL)
    write_checkpoint_of(folder / "base", weights, MODEL, context_tokens=64)
    ignorant = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    write_checkpoint_of(folder / "ignorant", ignorant, MODEL, context_tokens=64)
    hub.write_published(folder / "bert", hub.published_model("bert"))
    random = np.random.default_rng(0)

    def word(letters: str) -> str:
        return "".join(random.choice(list(letters), size=12))

    for split, count in (("train", 120), ("valid", 80)):
        letters = ("abcdef", "uvwxyz")
        topics = [{"text": word(letters[number % 2]), "label": number % 2} for number in range(count)]
        write_rows(folder / f"topics-{split}.jsonl", topics)
        pairs = [{"a": word(letters[number % 2]), "b": word(letters[0])} for number in range(count)]
        write_rows(
            folder / f"pairs-{split}.jsonl",
            [row | {"score": 5.0 * (number % 2 == 0)} for number, row in enumerate(pairs)],
        )
    tasks = {
        "topics": {"text": "text", "labels": ["first", "second"]},
        "pairs": {"text": ["a", "b"], "label": "score", "kind": "regression"},
        "same": {"text": ["a", "b"], "label": "score", "labels": ["0.0", "5.0"]},
        "single": {"text": "a", "label": "score", "kind": "regression"},
        "words": {"text": "text", "label": "label", "labels": ["O", "B-X"], "kind": "tokens"},
    }
    for name, task in tasks.items():
        rows = "topics" if name in ("topics", "words") else "pairs"
        task["files"] = {"train": f"{rows}-train.jsonl", "valid": f"{rows}-valid.jsonl"}
    (folder / "tasks.yaml").write_text(json.dumps({"tasks": tasks}))
    return folder


def test_the_classifier_is_a_logistic_regression() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=200)
    features = random.normal(size=(200, 8)) * np.arange(1, 9) + 0.3 * labels[:, None] * random.normal(size=8)
    classify = _fit(torch.tensor(features, dtype=torch.float32), torch.tensor(labels), 3)
    # scikit-learn's C scales the sum of the losses against half of the squared weights.
    inputs = StandardScaler().fit_transform(features)
    expected = LogisticRegression(C=1 / (2 * _PENALTY), max_iter=1_000).fit(inputs, labels).predict(inputs)
    agreement = (classify(torch.tensor(features, dtype=torch.float32)) == expected).mean()
    assert agreement > 0.97
    assert (expected != labels).any()


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_states_of_our_encoder_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = hub.write_published(tmp_path / kind, hub.published_model(kind))
    random = np.random.default_rng(0)
    documents = [random.integers(0, 256, size=size).astype(np.int32) for size in (3, 40, 17, 2)]
    source, device = open_weights(folder), torch.device("cpu")
    ours = our_pooler(build_encoder(source.info, source.read()), device)(documents)
    theirs = transformers_pooler(load_masked_lm(folder)[0], device)(documents)
    # Transformers gives the states after the final norm in place of those of the last layer.
    assert ours.shape == (3, 4, 32)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[2], theirs[-1], atol=1e-4, rtol=1e-4)


def test_batches_keep_the_numbers_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modernbert_train.evaluation.states._BATCH_TOKENS", 10)
    documents = [np.full(size, size, dtype=np.int32) for size in (4, 9, 1, 5, 12)]
    found = list(pool_documents(documents, lambda batch: torch.tensor([[[float(ids[0])] for ids in batch]])))
    assert [numbers for numbers, _ in found] == [[2, 0], [3], [1], [4]]
    assert [states.flatten().tolist() for _, states in found] == [[1, 4], [5], [9], [12]]


def probe(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["probe", *arguments, "--device", "cpu", "--json", "probe.json"]) == 0, (
        capsys.readouterr().err
    )
    found: list[dict[str, Any]] = json.loads(Path("probe.json").read_text())
    return found


def test_probes_stand_beside_the_random_twin(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modernbert_train.evaluation.probe._RESAMPLES", 40)
    tasks = [f"{folder}/tasks.yaml:{name}" for name in ("topics", "pairs", "same")]
    scores = probe(capsys, f"{folder}/ignorant", f"{folder}/base", *tasks)
    by_name = {(Path(score["model"]).name, score["task"]): score for score in scores}
    assert len(by_name) == 6
    for task in ("topics", "pairs", "same"):
        ignorant, base = by_name["ignorant", task], by_name["base", task]
        # Equal architectures have one twin, which is a bag of letters.
        assert ignorant["twin"] == base["twin"]
        assert base["twin"][0] > 0.7
        assert base["score"][0] > 0.7
        assert ignorant["score"][0] < 0.55
        value, error = ignorant["difference"]
        assert value == pytest.approx(ignorant["score"][0] - ignorant["twin"][0])
        assert value + 3 * error < 0
        assert len(base["by_layer"]) == 3
        assert base["by_layer"][base["layer"] - 1] == pytest.approx(base["score"][0])
    assert by_name["base", "pairs"]["metric"] == "spearman"
    assert by_name["base", "topics"]["num_train"] == 120
    assert "cut" not in caplog.text
    again = probe(capsys, f"{folder}/base", tasks[0], "train_rows=50", "valid_rows=20", "max_tokens=10")
    assert (again[0]["num_train"], again[0]["num_valid"]) == (50, 20)
    assert "topics: 100.0% of the texts are cut at 10 tokens" in caplog.text
    assert probe(capsys, f"{folder}/base", tasks[1])[0]["score"] == by_name["base", "pairs"]["score"]


def test_a_model_that_only_transformers_computes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = f"{folder}/tasks.yaml:topics"
    (ours,) = probe(capsys, f"{folder}/bert", task)
    config = json.loads((folder / "bert/config.json").read_text())
    electra = folder / "electra"
    hub.write_published(electra, hub.published_model("electra", embedding_size=32))
    (theirs,) = probe(capsys, str(electra), task)
    assert config["model_type"] == "bert"
    assert (len(ours["by_layer"]), len(theirs["by_layer"])) == (3, 2)
    assert theirs["twin"][0] > 0.8


def test_watching_a_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_checkpoint_of(run, random_weights(MODEL), MODEL, context_tokens=64, total_tokens=3_000)
    (run / "recipe.yaml").write_text("name: x\n")
    task = f"{folder}/tasks.yaml:topics"
    assert main(["probe", "--watch", str(run), "--device", "cpu", task, "train_rows=60"]) == 0
    assert capsys.readouterr().out.startswith("step 3, 3,000 tokens: topics 100.0 (twin ")
    (line,) = read_watch(run)
    assert line["kind"] == "probe"
    assert line["scores"]["topics"].keys() == {
        "score", "score_error", "twin", "twin_error", "difference", "difference_error", "layer",
    }  # fmt: skip


def test_the_table(folder: Path) -> None:
    from modernbert_train.evaluation.probe import ProbeScore
    from modernbert_train.evaluation.targets import Mean

    score = ProbeScore(
        "a", "x", "accuracy", 100, 1_000, 2, 1, Mean(0.6, 0.01), Mean(0.55, 0.02), Mean(0.05, 0.015), (0.5, 0.6), 3.2
    )  # fmt: skip
    others = [
        dataclasses.replace(score, model=model, task=task) for task in ("x", "y") for model in ("a", "b")
    ]
    rows = format_probes([others[0], others[2], others[1], others[3]]).splitlines()
    assert [row.split()[:2] for row in rows[2:6]] == [["x", "a"], ["x", "b"], ["y", "a"], ["y", "b"]]
    assert "2 of 2  60.0 ± 1.0  55.0 ± 2.0  +5.0 ± 1.5  100 + 1,000        3" in rows[2]


def test_arguments_are_models_tasks_and_fields(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    arguments = ["run", "glue/sst2", "sst2", "my.yaml:x", "folder=/data/x", "owner/model", "runs/typo"]
    assert sort_probe_arguments(arguments) == (
        ["run", "owner/model", "runs/typo"],
        ["glue/sst2", "sst2", "my.yaml:x"],
        ["folder=/data/x"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{0}/base ssd2", "there is no task 'ssd2'; did you mean sst2?"),
        ("{0}/base {0}/tasks.yaml:topic", "{0}/tasks.yaml: there is no task 'topic'; did you mean topics?"),
        ("{0}/base {0}/tasks.yaml:words", "{0}/tasks.yaml:words is of kind tokens; probes are made for"),
        ("{0}/base {0}/tasks.yaml:single", "{0}/tasks.yaml:single: its text is a; a probe of kind regression"),
        ("{0}/base {0}/tasks.yaml:topics epoch=1", "command line: epoch is not a field of a suite; did you mean"),
        ("{0}/tasks.yaml:topics", "no model is named; name a run, a checkpoint or a Hugging Face folder"),
        ("{0}/base/no {0}/tasks.yaml:topics", "{0}/base/no: no such run folder, checkpoint or model; name"),
        ("{0}/tasks.yaml {0}/tasks.yaml:topics", "{0}/tasks.yaml is a YAML file, and not the folder of a run"),
        ("--watch {0}/base --json x {0}/tasks.yaml:topics", "--json has no effect with --watch, which writes"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(["probe", *arguments.format(folder).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(folder)}")
    assert error.count("\n") == 1


def test_rows_are_limited_unless_the_task_says(folder: Path) -> None:
    task, rows = open_task(f"{folder}/tasks.yaml:topics")
    assert (task.train_rows, task.valid_rows) == (3_000, 1_500)
    assert len(rows.train) == 120
