import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import pipeline

from modernbert_train.cli import main
from modernbert_train.finetuning.examples import encode, load_tokenizer
from modernbert_train.finetuning.job import finetune
from modernbert_train.tasks.reading import Rows
from modernbert_train.tasks.results import JobResult, read_predictions, read_result
from modernbert_train.tasks.suite import find_task
from tests.helpers.exported import TINY, random_weights, write_checkpoint_of
from tests.helpers.tasks import letter_rows, write_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"))


def run(model: Path, suite: Path, task: str, out: str, *overrides: str) -> JobResult:
    assert main(["finetune", str(model), f"{suite}:{task}", out, *overrides]) == 0
    return read_result(out)


def test_the_folder_opens_in_a_pipeline_with_the_same_labels(
    tiny_exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path / "data", num_valid=500)
    result = run(tiny_exported, suite, "letters", "tuned", "epochs=4")
    printed = capsys.readouterr().out
    assert "letters valid: accuracy" in printed
    assert result.score == result.scores["accuracy"]["valid"] > 0.6
    assert result.num_rows == {"train": 64, "valid": 500}
    assert (result.task, result.kind, result.metric, result.kept) == (
        "letters",
        "classification",
        "accuracy",
        "best",
    )
    predictions = read_predictions("tuned")
    right = predictions["valid.predictions"] == predictions["valid.labels"]
    assert right.mean() == pytest.approx(result.score)
    classify = pipeline("text-classification", model="tuned", device="cpu", batch_size=50)
    outputs = classify([row["text"] for row in letter_rows(500, seed=1)])
    names = np.array(["late", "early"])
    assert [output["label"] for output in outputs] == names[predictions["valid.predictions"]].tolist()


def test_words_are_labelled_as_by_a_pipeline(tiny_exported: Path, suite: Path) -> None:
    result = run(tiny_exported, suite, "names", "names", "epochs=6")
    assert result.metric == "span_f1"
    assert result.scores["accuracy"]["valid"] > 0.6
    predictions = read_predictions("names")
    words = [row["words"] for row in letter_rows(32, seed=1)]
    assert predictions["valid.rows"].tolist() == [row for row, part in enumerate(words) for _ in part]
    label = pipeline("token-classification", model="names", device="cpu", ignore_labels=[])
    classes = ["O", "B-NAME", "I-NAME"]
    by_pipeline = []
    for part in words:
        starts = np.cumsum([0, *(len(word) + 1 for word in part)])
        # The space before a word is a token of its own here.
        by_start = {output["start"]: output["entity"] for output in label(" ".join(part))}
        by_pipeline += [classes.index(by_start[start]) for start in starts[:-1]]
    assert by_pipeline == predictions["valid.predictions"].tolist()


def test_a_fine_tuned_folder_is_a_start_with_a_new_classifier(
    tiny_exported: Path, suite: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(tiny_exported, suite, "letters", "letters")
    assert first.started_from is None
    assert "starts from" not in caplog.text
    run(tiny_exported, suite, "pairs", "cold")
    assert "pairs starts from the model that was fine-tuned on letters" in caplog.text
    # So small a rate leaves everything but the classifier as it was.
    tiny_rate = ["learning_rate=1e-12", "weight_decay=0"]
    second = run(tmp_path / "letters", suite, "pairs", "pairs", *tiny_rate)
    assert second.started_from == "letters"
    scores = run(tmp_path / "letters", suite, "scores", "scores", *tiny_rate)
    assert scores.metric == "spearman"
    before, pairs, regression = (
        transformers.AutoModelForSequenceClassification.from_pretrained(name).state_dict()
        for name in ("letters", "pairs", "scores")
    )
    assert regression["classifier.weight"].shape == (1, 32)
    assert json.loads(Path("scores/config.json").read_text())["problem_type"] == "regression"
    for name, weight in before.items():
        if not name.startswith("classifier"):
            torch.testing.assert_close(pairs[name], weight, atol=1e-9, rtol=0)
    assert not torch.allclose(pairs["classifier.weight"], before["classifier.weight"])


def test_the_same_command_gives_the_same_numbers(tiny_exported: Path, suite: Path) -> None:
    runs = [run(tiny_exported, suite, "pairs", name, "seed=5") for name in ("one", "two")]
    assert runs[0].details == runs[1].details
    other = run(tiny_exported, suite, "pairs", "three", "seed=6")
    assert other.seed == 6
    assert other.details["evaluations"] != runs[0].details["evaluations"]


def test_a_random_twin_differs_in_its_weights_alone(tiny_exported: Path, suite: Path) -> None:
    run(tiny_exported, suite, "letters", "pretrained", "learning_rate=1e-12")
    twin = run(tiny_exported, suite, "letters", "twin", "learning_rate=1e-12", "random_twin=true")
    assert twin.random_twin
    configs = [json.loads(Path(name, "config.json").read_text()) for name in ("pretrained", "twin")]
    assert configs[0] == configs[1]
    weights = [
        transformers.AutoModelForSequenceClassification.from_pretrained(name).state_dict()
        for name in ("pretrained", "twin")
    ]
    assert weights[0].keys() == weights[1].keys()
    embedding = weights[1]["model.embeddings.tok_embeddings.weight"]
    assert embedding.std() == pytest.approx(0.02 * 0.88, rel=0.05)  # truncated at two standard deviations
    assert torch.equal(weights[0]["classifier.weight"], weights[1]["classifier.weight"])


def test_a_checkpoint_is_fine_tuned_as_its_export(tiny_exported: Path, suite: Path) -> None:
    exported = run(tiny_exported, suite, "letters", "from-export")
    checkpoint = run(tiny_exported.parent / "run", suite, "letters", "from-run")
    assert checkpoint.details == exported.details


def write_other(folder: Path, tokenizer_of: Path, family: str = "roberta") -> Path:
    """A RoBERTa, an XLM-RoBERTa, or a BERT, whose tokenizer says which of two texts a token is of."""
    sizes = {"vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 330, "pad_token_id": 259}
    config = transformers.AutoConfig.for_model(family, **sizes)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    shutil.copyfile(tokenizer_of / "tokenizer.json", folder / "tokenizer.json")
    fields = json.loads((tokenizer_of / "tokenizer_config.json").read_text())
    if family == "bert":
        fields["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("family", "task"), [("roberta", "scores"), ("xlm-roberta", "names"), ("bert", "pairs")]
)
def test_other_architectures_are_padded(
    family: str, task: str, tiny_exported: Path, suite: Path, tmp_path: Path
) -> None:
    other = write_other(tmp_path / "other", tiny_exported, family)
    result = run(other, suite, task, "tuned", "seed=1")
    assert result.details["engine"] == "padded"
    again = run(tmp_path / "tuned", suite, task, "again", "random_twin=true")
    assert again.started_from == task
    assert transformers.AutoModel.from_pretrained("tuned").config.model_type == family
    if family == "bert":
        encoded = encode(Rows([("ab", "cde")], [0]), "classification", load_tokenizer(Path("tuned")), 64, "")
        assert encoded[0].token_types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_share_of_cut_rows_is_recorded_and_printed(
    tiny_exported: Path, suite: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = run(tiny_exported, suite, "letters", "tuned", "max_tokens=12")
    lengths = np.array([len(row["text"]) for row in letter_rows(32, seed=1)])
    assert result.cut_share["valid"] == pytest.approx((lengths > 10).mean())
    assert f"{result.cut_share['valid']:.1%} of them cut to 12" in caplog.text
    assert "letters valid: of 32 valid rows, in train: whole rows: " in caplog.text
    words = run(tiny_exported, suite, "names", "cut", "max_tokens=8")
    assert words.cut_share["valid"] > 0.5
    assert (read_predictions("cut")["valid.predictions"] == -1).any()


def test_a_model_shorter_than_max_tokens_says_so(
    suite: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_checkpoint_of(tmp_path / "short", random_weights(TINY), context_tokens=16)
    result = run(tmp_path / "short", suite, "letters", "tuned")
    assert "texts are cut to 16 tokens, the longest input of the model (max_tokens is 64)" in caplog.text
    assert result.cut_share["train"] > 0.3


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("EXPORTED", ["text=txet"], "there is no column 'txet', which the task names as text; did you mean text"),
        ("EXPORTED", ["labels=[late, soon]"], "label is 'early', expected one of late, soon"),
        ("EXPORTED", ["epoch=3"], "epoch is not a field of a suite; did you mean epochs"),
        ("EXPORTED", ["engine=padded", "device=gpu"], "device is gpu, but torch finds no CUDA device"),
        ("NO-TOKENIZER", [], "bare: has no tokenizer; put tokenizer.json and tokenizer_config.json of the"),
        ("ROBERTA", ["engine=packed"], "engine is packed, which computes models of type modernbert; this is a roberta"),
        ("no/such-model", [], "the Hugging Face hub does not give a model of this name .*hf download"),
        ("no-such-model", [], "no such run folder, checkpoint or model"),
        ("SUITE", [], "suite.yaml"),
        ("CAUSAL", [], "no class of Transformers computes this encoder with causal attention"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(
    model: str, overrides: list[str], message: str, tiny_exported: Path, suite: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    paths: dict[str, Any] = {"EXPORTED": tiny_exported, "SUITE": suite}
    if model == "NO-TOKENIZER":
        paths[model] = shutil.copytree(tiny_exported, tmp_path / "bare")
        for file in paths[model].glob("tokenizer*"):
            file.unlink()
    if model == "ROBERTA":
        paths[model] = write_other(tmp_path / "roberta", tiny_exported)
    if model == "CAUSAL":
        paths[model] = write_checkpoint_of(tmp_path / "causal", random_weights(TINY), objective="clm")
    assert main(["finetune", str(paths.get(model, model)), f"{suite}:letters", "out", *overrides]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not Path("out").exists()


def test_an_overwritten_folder_or_a_retrieval_task_is_refused(tiny_exported: Path, suite: Path) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    with pytest.raises(ValueError, match="full exists and is not empty"):
        finetune(str(tiny_exported), find_task(f"{suite}:letters"), "full")
    task = find_task(f"{suite}:letters", ["kind=retrieval", "text=[text, text]"])
    with pytest.raises(ValueError, match="letters is of kind retrieval: use `modernbert retrieve`"):
        finetune(str(tiny_exported), task, "out")
