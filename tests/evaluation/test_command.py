"""`modernbert evaluate`: its options, on raw text and on stores."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modernbert_train.cli import main
from modernbert_train.config import ModelConfig
from tests.evaluation.test_masked_lm import make_tokenizer_with_template, recipe_for, write_run
from tests.helpers import hub
from tests.helpers.exported import random_weights, write_checkpoint_of
from tests.helpers.stores import make_store

MODEL = ModelConfig(
    vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    local_attention=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of different contexts, a BERT folder, and files of text."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, context_tokens in (("extended", 1_024), ("twin", 64)):
        write_checkpoint_of(folder / name, random_weights(MODEL), MODEL, context_tokens=context_tokens)
    hub.write_published(folder / "bert", hub.published_model("bert"))
    random = np.random.default_rng(0)
    for file in ("a", "b"):
        texts = [" ".join(random.choice(list("abcdef"), size=random.integers(5, 80))) for _ in range(6)]
        lines = "".join(json.dumps({"body": text, "text": text.upper()}) + "\n" for text in texts)
        (folder / f"{file}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "long.txt").write_text("abc def " * 60)
    return folder


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments, "--device", "cpu"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_raw_text_with_each_model_s_own_tokenizer(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    printed = evaluate(
        capsys, f"{folder}/twin", f"{folder}/bert", "--text", f"web={folder}/*.jsonl.gz", "--text",
        f"long={folder}/long.txt", "--json", "numbers.json",
    )  # fmt: skip
    rows = [re.split(" {2,}", line)[:2] for line in printed.splitlines()]
    assert rows[0] == ["source", "model"]
    assert rows[2:6] == [
        [source, f"{folder}/{model}"] for source in ("web", "long") for model in ("twin", "bert")
    ]
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert found["context_tokens"] == 64
    ours, long, bert, _ = found["scores"]
    assert (ours["source"], ours["model"]) == ("web", f"{folder}/twin")
    # Both have a byte as a token, and so are asked for the same tokens.
    assert (ours["tokens"], ours["targets"]) == (bert["tokens"], bert["targets"])
    assert ours["unigram_loss"] == bert["unigram_loss"]
    assert ours["loss"] != bert["loss"]
    assert ours["loss_error"] > 0
    assert long["loss_error"] is None  # a single document, in pieces
    assert long["tokens"] == 480 + 2 * -(-480 // 62)


def test_documents_and_fields_of_raw_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tokens(*options: str) -> int:
        evaluate(capsys, f"{folder}/extended", "--text", f"web={folder}/*.gz", "--json", "n.json", *options)
        (score,) = json.loads(Path("n.json").read_text())["scores"]
        return int(score["tokens"])

    whole = tokens()
    lengths = {}
    for file in ("a", "b"):
        lines = gzip.decompress((folder / f"{file}.jsonl.gz").read_bytes()).splitlines()
        lengths[file] = [len(json.loads(line)["text"]) + 2 for line in lines]
    assert whole == sum(map(sum, lengths.values()))
    assert tokens("--text-field", "body") == whole
    assert tokens("--max-documents", "3") == sum(lengths["a"][:2]) + lengths["b"][0]
    assert tokens("--max-documents", "1") == lengths["a"][0]


def test_scores_by_position_and_length_and_what_context_gains(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = evaluate(
        capsys, f"{folder}/extended", f"{folder}/twin", "--text", f"web={folder}/*.gz", "--lengths", "--picture",
        "positions.png", "--json", "numbers.json",
    )  # fmt: skip
    tables = printed.split("\n\n")
    titles = [re.split(" {2,}", table.splitlines()[0]) for table in tables]
    assert titles[2][2] == "position (tokens)"
    assert titles[3][2] == "document (tokens)"
    assert [line.split()[:3] for line in tables[2].splitlines()[2:]] == [
        ["web", f"{folder}/{model}", first] for first in ("1", "129") for model in ("extended", "twin")
    ]
    assert titles[4] == [
        "source",
        "old context",
        "documents",
        "first",
        "second",
        "difference",
        "95% interval",
    ]
    assert Path("positions.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(Path("numbers.json").read_text())
    assert found["context_tokens"] == 1_024
    for score in found["scores"]:
        for view in ("by_position", "by_length"):
            buckets = score[view]
            assert [bucket["first"] for bucket in buckets] == [1, 129][: len(buckets)]
            assert sum(bucket["targets"] for bucket in buckets) == score["targets"]
            losses = [bucket["loss"] * bucket["targets"] for bucket in buckets]
            assert sum(losses) / score["targets"] == pytest.approx(score["loss"])
    (gain,) = found["context_gains"]
    assert gain["old_context"] == 64
    # Both have the same weights.
    assert gain["difference"] == pytest.approx(0, abs=1e-6)
    assert "of the models" not in printed
    same = evaluate(capsys, f"{folder}/extended", "--text", f"web={folder}/*.gz", "--lengths")
    assert "old context" not in same


def test_longer_documents_than_the_recipe_s_context(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    documents = [random.integers(5, 256, size).tolist() for size in (40, 300, 700, 900)]
    store = make_store(
        tmp_path / "store",
        make_tokenizer_with_template(tmp_path / "tokenizer"),
        {"web": {"train": documents, "valid": documents}},
    )
    recipe = recipe_for(store.path, "web")  # 4 rows of 512 tokens, context 128
    run = write_run(tmp_path / "run", recipe, random_weights(recipe.model))

    def score(*options: str) -> dict[str, Any]:
        evaluate(capsys, str(run), "--json", "numbers.json", *options)
        found: dict[str, Any] = json.loads(Path("numbers.json").read_text())
        return found

    assert score()["context_tokens"] == 128
    assert (run / "evaluation.json").is_file()
    (run / "evaluation.json").unlink()
    longer = score("--lengths", "--context-tokens", "800", "--max-tokens", "10K")
    by_length = longer["scores"][0]["by_length"]
    assert [(bucket["first"], bucket["documents"]) for bucket in by_length] == [(1, 2), (129, 1), (513, 2)]
    assert longer["scores"][0]["tokens"] == sum(map(len, documents)) + 2 * 5  # the longest in two pieces
    assert score("--context-tokens", "20K")["context_tokens"] == recipe.model.max_position_embeddings
    assert "documents are cut at 8,192 tokens instead of 20,000: " in caplog.text
    assert not (run / "evaluation.json").exists(), "the model card shows scores at the run's own context"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{0}/twin", "{0}/twin: no recipe.yaml in it, so the text to evaluate on is unknown; name one (--recipe"),
        ("{0}/twin --bits-per-byte", "--bits-per-byte has an effect only with --text; add it, or leave"),
        ("{0}/twin --beyond 64", "--beyond has an effect only with --lengths; add it, or leave --beyond out"),
        ("{0}/twin --text web=x --recipe y", "--recipe has no effect with --text; leave one of them out"),
        ("{0}/twin --text web", "--text: 'web' must be NAME=PATTERN, such as web='/data/web/*.jsonl.gz'"),
        ("{0}/twin --text web=x.jsonl", "--text web: input: no file matches 'x.jsonl'; check the path"),
        ("{0}/twin --text web={0}/a.jsonl.gz --text-field t", "--text web: {0}/a.jsonl.gz:1: has no field 't'"),
        ("{0}/twin {0}/twin --text web={0}/*.gz", "a model is named twice; name each once"),
        ("{0}/twin --text web={0}/*.gz --device cuda:99", "--device is 'cuda:99', but this machine has "),
        ("{0}/twin --text web={0}/*.gz --device tpu", "--device is 'tpu', must be auto, cpu, gpu, or cuda:N"),
        ("{0}/twin --text web={0}/*.gz --json no/x.json", "--json: no/x.json: its folder does not exist; make"),
        ("{0}/twin --text web={0}/*.gz --lengths --beyond 9000", "--beyond is 9,000, and no document is longer"),
        ("{0}/twin --text web={0}/*.gz --context-tokens 2", "--context-tokens is 2, must be at least 8"),
        ("{0}/no --text web={0}/*.gz", "{0}/no: no such run folder, checkpoint or model; name a run folder"),
        ("--text web={0}/*.gz", "no model is named; name a run, a checkpoint or a Hugging Face folder, or --watch RUN"),
        ("{0}/twin --every 1B", "--every has an effect only with --watch; add it, or leave --every out"),
        ("{0}/twin --watch {0}/twin", "--watch evaluates the checkpoints of its run; leave out {0}/twin"),
        ("--watch {0}/twin --text web={0}/*.gz", "--watch {0}/twin: no recipe.yaml in it; name the folder of a run"),
        ("--watch {0}/twin --lengths", "--lengths has no effect with --watch; evaluate a checkpoint by its path"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main(["evaluate", *options.format(folder).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(folder)}")
    assert error.count("\n") == 1
