from pathlib import Path

import pytest

from modernbert_train.tasks.suite import find_task, load_suite

SUITE = """
defaults: {batch_size: 8, learning_rate: 1e-4, labels: ["no", "yes"]}
tasks:
  pairs: {files: {train: a.jsonl, valid: b.jsonl}, text: [question, answer], max_tokens: 1K}
  single:
    files: {train: a.jsonl, valid: {near: b.jsonl, far: c.jsonl}}
    text: sentence
    batch_size: 4
    start_from: pairs
  score: {kind: regression, labels: [], hub: owner/data, text: [a, b]}
  words: {kind: tokens, files: {train: w.jsonl, valid: [x.jsonl.gz, y.jsonl]}, text: words, labels: [O, B-A]}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    return path


def test_tasks_take_defaults_and_overrides(suite: Path) -> None:
    tasks = load_suite(suite, ["epochs=2", "tasks.pairs.epochs=5", "defaults.eps=1e-8"]).tasks
    assert list(tasks) == ["pairs", "single", "score", "words"]
    assert [task.batch_size for task in tasks.values()] == [8, 4, 8, 8]
    assert [task.epochs for task in tasks.values()] == [5, 2, 2, 2]
    assert tasks["single"].eps == 1e-8
    assert tasks["pairs"].max_tokens == 1000
    assert tasks["pairs"].labels == ["no", "yes"]
    assert tasks["single"].text == ["sentence"]
    assert [task.metric for task in tasks.values()] == ["accuracy", "accuracy", "spearman", "span_f1"]
    assert tasks["pairs"].files.valid == {"valid": "b.jsonl"}
    assert tasks["single"].files.valid == {"near": "b.jsonl", "far": "c.jsonl"}
    assert tasks["words"].files.valid == {"x": "x.jsonl.gz", "y": "y.jsonl"}
    assert tasks["score"].splits.valid == {"validation": "validation"}


def test_override_of_one_task_replaces_its_valid_sets(suite: Path) -> None:
    task = find_task(f"{suite}:single", ["files.valid=d.jsonl", "metric=f1", "seed=3"])
    assert task.files.valid == {"valid": "d.jsonl"}
    assert (task.name, task.metric, task.seed) == ("single", "f1", 3)


def test_folder_is_that_of_the_file_or_of_the_override(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_task(f"{suite}:pairs").path("b.jsonl") == tmp_path / "b.jsonl"
    assert find_task(f"{suite}:pairs", ["folder=data"]).path("b.jsonl") == Path("data/b.jsonl")
    suite.write_text("folder: data\n" + SUITE)
    assert find_task(f"{suite}:pairs").path("b.jsonl") == tmp_path / "data/b.jsonl"


# Columns, labels, metric, valid sets, learning rate, weight decay, epochs and first task: nyu-mll/glue has the
# first four; the others are the paper's best settings of the base model.
GLUE: dict[str, tuple[object, ...]] = {
    "cola": ("sentence", "unacceptable acceptable", "matthews", "validation", 8e-5, 1e-6, 5, None),
    "sst2": ("sentence", "negative positive", "accuracy", "validation", 8e-5, 1e-5, 2, None),
    "qqp": ("question1 question2", "not_duplicate duplicate", "accuracy", "validation", 5e-5, 5e-6, 10, None),
    "mnli": (
        "premise hypothesis", "entailment neutral contradiction", "accuracy",
        "validation_matched validation_mismatched", 5e-5, 5e-6, 1, None,
    ),
    "qnli": ("question sentence", "entailment not_entailment", "accuracy", "validation", 8e-5, 5e-6, 2, None),
    "rte": ("sentence1 sentence2", "entailment not_entailment", "accuracy", "validation", 5e-5, 1e-5, 3, "mnli"),
    "mrpc": ("sentence1 sentence2", "not_equivalent equivalent", "accuracy", "validation", 5e-5, 5e-6, 10, "mnli"),
    "stsb": ("sentence1 sentence2", "", "spearman", "validation", 8e-5, 5e-6, 10, "mnli"),
}  # fmt: skip


def test_glue_is_that_of_the_paper() -> None:
    tasks = load_suite("yamls/evaluation/glue.yaml").tasks
    assert tasks.keys() == GLUE.keys()
    for name, task in tasks.items():
        found = (
            " ".join(task.text), " ".join(task.labels), task.metric, " ".join(task.splits.valid),
            task.learning_rate, task.weight_decay, task.epochs, task.start_from,
        )  # fmt: skip
        assert found == GLUE[name], name
        assert (task.hub, task.config, task.kind == "regression") == ("nyu-mll/glue", name, name == "stsb")
        assert (task.batch_size, task.max_tokens, task.warmup, task.betas, task.eps) == (
            64,
            256,
            0.1,
            (0.9, 0.98),
            1e-6,
        )
        assert (task.keep, task.pooling, task.schedule, task.seeds) == (
            "best",
            "mean",
            "linear",
            [1618, 42, 6033],
        )
    assert find_task("glue/mnli") == find_task("mnli")


@pytest.mark.parametrize(
    ("reference", "override", "message"),
    [
        ("sst", None, "there is no task 'sst'; did you mean sst2?"),
        ("glue/sst", None, "there is no task 'sst'; did you mean sst2?"),
        ("FILE", None, "is a suite of tasks; write .*:NAME, with one of pairs, single, score, words"),
        ("FILE:pair", None, "there is no task 'pair'; did you mean pairs?"),
        ("FILE:pairs", "epoch=1", "command line: epoch is not a field of a suite; did you mean epochs?"),
        ("FILE:pairs", "epochs=x", "command line: tasks.pairs.epochs is 'x', expected a number"),
        ("FILE:pairs", "tasks.pair.epochs=2", "there is no task 'pair'; did you mean pairs?"),
        ("FILE:pairs", "metric=spearman", "tasks.pairs.metric is spearman: .* accuracy, f1, macro_f1, matthews"),
        ("FILE:pairs", "labels=[yes, no]", "labels is .*: YAML reads yes"),
        ("FILE:pairs", "labels=[a]", "labels is .*: must name at least two classes"),
        ("FILE:pairs", "labels=[a, a]", "labels is .*: a name stands twice"),
        ("FILE:pairs", "seeds=[a]", r"seeds is \['a'\], expected a list of whole numbers"),
        ("FILE:pairs", "kind=foo", "kind is 'foo', expected one of classification, regression, tokens, retrieval"),
        ("FILE:pairs", "hub=a/b", "hub is a/b, but files are set too"),
        ("FILE:score", "hub=null", "files.train is missing: set files: .* or hub: NAME of a dataset"),
        ("FILE:pairs", "start_from=pears", "start_from is 'pears': there is no task 'pears'; did you mean pairs?"),
        ("FILE:pairs", "start_from=single", "tasks start from each other, pairs <- single <- pairs"),
        ("FILE:pairs", "text=[a, b, c]", "text is .*: must name one or two columns"),
        ("FILE:pairs", "learning_rate=0", "learning_rate is 0.0: must be a finite number above 0"),
        ("FILE:pairs", "split={valid_fraction: 1}", "split.valid_fraction is 1.0: must be above 0 and less than 1"),
        ("FILE:single", "kind=retrieval", "text is .*: must name the columns of query and document"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(
    reference: str, override: str | None, message: str, suite: Path
) -> None:
    with pytest.raises(ValueError, match=message.replace("?", "[?]")) as error:
        find_task(reference.replace("FILE", str(suite)), [] if override is None else [override])
    assert "\n" not in str(error.value)


def test_a_suite_without_tasks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("defaults: {epochs: 1}\n")
    with pytest.raises(ValueError, match="has no tasks"):
        load_suite(path)
