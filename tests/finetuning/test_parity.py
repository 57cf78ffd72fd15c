"""The packed engine computes what Transformers' ModernBERT classes compute."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from modernbert_train.finetuning.examples import Example
from modernbert_train.finetuning.loop import loss_sum, train
from modernbert_train.finetuning.packed import PackedEngine
from modernbert_train.finetuning.padded import PaddedEngine, pad
from modernbert_train.objectives import IGNORE_INDEX
from modernbert_train.tasks.schema import Task

CPU = torch.device("cpu")
CASES = [
    pytest.param("classification", "mean", id="mean"),
    pytest.param("classification", "cls", id="cls"),
    pytest.param("regression", "mean", id="regression"),
    pytest.param("tokens", "mean", id="tokens"),
]


def task_of(kind: Any, pooling: Any = "mean", **fields: Any) -> Task:
    labels = [] if kind == "regression" else ["a", "b", "c"]
    metric = {"regression": "spearman"}.get(kind, "accuracy")
    return Task(name="t", folder=Path(), kind=kind, pooling=pooling, labels=labels, metric=metric, **fields)


def examples_of(kind: str, lengths: list[int], seed: int = 0) -> list[Example]:
    generator = np.random.default_rng(seed)
    examples = []
    for length in lengths:
        ids = generator.integers(0, 256, length).astype(np.int32)
        label: Any = int(generator.integers(3))
        words = None
        if kind == "regression":
            label = float(generator.normal())
        if kind == "tokens":
            label = np.where(generator.random(length) < 0.5, generator.integers(0, 3, length), IGNORE_INDEX)
            words = np.flatnonzero(label != IGNORE_INDEX)
        known = None if words is None else label[words]
        examples.append(Example(ids, None, label, False, words, known))
    return examples


@pytest.mark.parametrize(("kind", "pooling"), CASES)
def test_outputs_and_gradients_are_those_of_transformers(
    kind: str, pooling: str, tiny_exported: Path, tmp_path: Path
) -> None:
    task = task_of(kind, pooling)
    engine = PackedEngine(tiny_exported, task, seed=0, device=CPU)
    engine.save(tmp_path)
    auto = AutoModelForTokenClassification if kind == "tokens" else AutoModelForSequenceClassification
    theirs, info = auto.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    examples = examples_of(kind, [2, 3, 17, 40, 129, 1024])
    inputs = pad(examples, pad_id=259)
    expected = theirs(**inputs).logits
    if kind == "tokens":
        expected = expected[inputs["attention_mask"].bool()]
    actual = engine.logits(examples)
    assert (actual - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    for logits in (actual, expected):
        loss_sum(logits, examples, task).backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    ours = dict(engine.model.named_parameters())
    assert ours.keys() == gradients.keys()
    for name, weight in ours.items():
        assert weight.grad is not None
        difference = (weight.grad - gradients[name]).abs().max() / gradients[name].abs().max()
        assert difference < 1e-5, name


@pytest.mark.parametrize(("kind", "pooling"), CASES)
def test_thirty_steps_have_the_losses_of_transformers(kind: str, pooling: str, tiny_exported: Path) -> None:
    lengths = np.random.default_rng(1).integers(2, 50, 40).tolist()
    examples = examples_of(kind, lengths)
    outcomes = []
    for engine_class, micro_batch_tokens in ((PackedEngine, 100), (PaddedEngine, 10_000)):
        task = task_of(
            kind, pooling, epochs=3, batch_size=4, micro_batch_tokens=micro_batch_tokens, learning_rate=3e-4
        )
        engine = engine_class(tiny_exported, task, 3, CPU)
        outcomes.append(train(engine, examples, {"valid": examples}, task, seed=3))
    packed, padded = outcomes
    assert len(packed.losses) == 30
    assert sum(packed.losses[20:]) < sum(packed.losses[:10])
    assert packed.losses == pytest.approx(padded.losses, abs=1e-5)
    assert packed.kept.step == padded.kept.step
    assert packed.kept.scores["spearman" if kind == "regression" else "accuracy"] == pytest.approx(
        padded.kept.scores["spearman" if kind == "regression" else "accuracy"]
    )


def test_losses_are_those_of_transformers_with_labels(tiny_exported: Path) -> None:
    for kind in ("classification", "regression", "tokens"):
        task = task_of(kind)
        engine = PaddedEngine(tiny_exported, task, 0, CPU)
        examples = examples_of(kind, [4, 9, 5])
        inputs = pad(examples, pad_id=259)
        labels: Any = [example.label for example in examples]
        count = 3
        if kind == "tokens":
            count = sum((label != IGNORE_INDEX).sum() for label in labels)
            labels = [np.pad(label, (0, 9 - len(label)), constant_values=IGNORE_INDEX) for label in labels]
        theirs = engine.model(**inputs, labels=torch.tensor(np.array(labels))).loss.item()
        assert loss_sum(engine.logits(examples), examples, task).item() / count == pytest.approx(
            theirs, rel=1e-5
        )
