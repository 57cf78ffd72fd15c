"""The shipped suites of retrieval, and the tasks on the page about it."""

import re
from pathlib import Path

import pytest

from modernbert_train.tasks.schema import RetrievalConfig
from modernbert_train.tasks.suite import load_suite

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["retrieval", "code", "long", "local-retrieval"])
def test_shipped_suites_load(name: str) -> None:
    tasks = load_suite(f"yamls/evaluation/{name}.yaml").tasks
    kinds = {task.kind for task in tasks.values()}
    assert kinds == {"retrieval", "regression"} if name == "local-retrieval" else {"retrieval"}


def test_settings_of_the_paper_s_example() -> None:
    tasks = load_suite("yamls/evaluation/retrieval.yaml").tasks
    task = tasks["beir"]
    assert (task.batch_size, task.learning_rate, task.warmup, task.epochs) == (512, 8e-5, 0.05, 1)
    assert (task.train_rows, task.text) == (1_250_000, ["query", "positive", "negative"])
    assert task.retrieval is not None
    assert task.retrieval.mteb == ["BEIR"]
    colbert = tasks["beir-colbert"].retrieval
    assert colbert == RetrievalConfig(mteb=["BEIR"], multi_vector=True, query_tokens=32)


def test_the_page_s_tasks_load(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/retrieval.md").read_text(), re.DOTALL)
    (tmp_path / "tasks.yaml").write_text(block)
    assert list(load_suite(tmp_path / "tasks.yaml").tasks) == [
        "questions",
        "manuals",
        "both",
        "published",
        "similar",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieval.corpus=c.jsonl", "only one of retrieval.mteb, retrieval.corpus, files.valid and"),
        ("files.valid.valid=null", "files.valid is missing: name pairs to score"),
        ("files={train: ''}", "files.train is missing: name pairs to train on"),
        ("retrieval.queries=q.jsonl", "retrieval.corpus is missing: a collection needs corpus and queries"),
        ("text=[query]", "text is .*: must name the columns of query and document"),
        ("retrieval.train_on=[scitldrs]", "retrieval.train_on: there is no task 'scitldrs'; did you mean scitldr[?]"),
        ("retrieval.evaluate_on=[stsb-cosine]", "task stsb-cosine is of kind regression, not retrieval"),
        ("retrieval.negative_ranks=[50, 10]", r"negative_ranks is \[50, 10\]: must be two ranks from 1"),
        ("retrieval.hard_negatives=-1", "retrieval.hard_negatives is -1: must be a finite number of at least 0"),
        ("retrieval.steps=-1", "retrieval.steps is -1: must be a finite number of at least 0"),
        ("retrieval.scale=0", "retrieval.scale is 0.0: must be a finite number above 0"),
        ("retrieval.query_tokens=4", "retrieval.query_tokens is 4: must be at least 8"),
        ("retrieval.dimension=0", "retrieval.dimension is 0: must be at least 1"),
        ("retrieval.step=3", "retrieval.step is not a field of a suite; did you mean steps[?]"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_task_is_said(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_suite("yamls/evaluation/local-retrieval.yaml", [override], only="codesearch")
