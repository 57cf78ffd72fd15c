import csv
import json

import pytest

from modernbert_train.benchmark.command import find_models
from modernbert_train.benchmark.facts import read_facts, write_baselines
from modernbert_train.benchmark.jobs import plan_benchmark
from modernbert_train.benchmark.page import preview, write_page
from modernbert_train.benchmark.picture import draw_results, write_picture
from modernbert_train.benchmark.published import published_key, read_published, tables_for
from modernbert_train.benchmark.results import collect_results, to_csv, to_json
from modernbert_train.tasks.suite import load_suite
from tests.helpers.benchmarks import pretend_finished, write_suite

TASKS = """
tasks:
  first: {}
  rte: {seeds: [1], keep: last}
  numbers: {kind: regression, labels: [], text: [text, other], label: score}
"""


@pytest.fixture
def benchmark(tmp_path):
    """Two models and the twin of each; the second is better on `first`, and nearly the same on the others."""
    suite = write_suite(tmp_path, TASKS)
    found = plan_benchmark(suite, ["runs/a", "runs/b"], (), str(tmp_path / "out"), random_twin=True)
    for job in found.jobs:
        quality = {"b/first/seed-1": 0.9, "b/first/seed-2": 0.9}.get(job.name, 0.7)
        pretend_finished(job, (0.6 if job.model.twin_of else quality) + 0.01 * job.seed)
    return found


def facts_of(benchmark):
    return {name: read_facts(benchmark.suite, task) for name, task in benchmark.suite.tasks.items()}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page(benchmark, tmp_path):
    facts = facts_of(benchmark)
    for task in benchmark.suite.tasks.values():
        write_baselines(benchmark.suite, task, tmp_path / "out/baselines")
    results = collect_results(benchmark, facts)
    page = write_page(results)
    table = {cells(line)[0]: cells(line) for line in page.splitlines() if line.startswith("| ")}
    assert table["task"][:5] == ["task", "metric", "weights", "valid rows", "could show"]
    models = ["a", "a-random-twin", "b", "b-random-twin", "majority", "bag of words", "TF-IDF cosine"]
    assert table["task"][5:] == models
    assert table["first"][:4] == ["first", "accuracy", "best", "24"]
    assert table["first"][5:9] == ["71.5 ± 0.7", "61.5 ± 0.7", "91.5 ± 0.7", "61.5 ± 0.7"]
    assert table["rte (not from MNLI)"][2] == "last"
    assert table["rte (not from MNLI)"][5] == "71.0 ± -"
    assert table["mean"][5] == "71.3"
    assert "One seed only (rte): intervals cover the rows" in page
    assert "- first: 48 rows to train on; valid: of 24 valid rows, in train: whole rows: 0" in page
    assert "Beside published scores" not in page
    verdicts = {
        (one.model, one.reference, one.task): one.estimate.verdict
        for one in results.differences
        if one.reference not in results.baselines
    }
    assert verdicts["b", "a", "first"] == "better"
    assert verdicts["b", "a", "rte"] == "same"
    assert verdicts["a", "a-random-twin", "first"] == verdicts["b", "b-random-twin", "mean"] == "better"
    assert {pair[:2] for pair in verdicts} == {("b", "a"), ("a", "a-random-twin"), ("b", "b-random-twin")}
    rivals = {(one.model, one.task) for one in results.differences if one.reference in results.baselines}
    assert rivals == {(model, task) for model in "ab" for task in benchmark.suite.tasks}
    assert write_page(collect_results(benchmark, facts)) == page  # the same bit for bit
    numbers = json.loads(to_json(results))
    assert numbers["tasks"]["first"]["num_rows"] == {"train": 48, "valid": 24}
    assert {score["model"] for score in numbers["scores"]} == set(models)
    assert numbers["missing"] == []
    lines = list(csv.DictReader(to_csv(results).splitlines()))
    assert len([line for line in lines if line["model"] in "ab"]) == 2 * (2 + 1 + 2)
    write_picture(results, tmp_path / "picture.png")
    figure = draw_results(results)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        *benchmark.suite.tasks,
        "mean",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == models


def test_what_is_not_finished_is_named(tmp_path):
    benchmark = plan_benchmark(write_suite(tmp_path, TASKS), ["a"], (), str(tmp_path / "out"), False)
    pretend_finished(benchmark.jobs[0], 0.7)
    results = collect_results(benchmark, facts_of(benchmark))
    page = write_page(results)
    assert "4 of 5 jobs have no result yet: a/rte/seed-1, a/numbers/seed-1, a/first/seed-2" in page
    assert "| missing |" in page
    assert not results.means


def test_the_preview(benchmark):
    text = preview(benchmark, facts_of(benchmark))
    line = next(line for line in text.splitlines() if line.startswith("first"))
    assert line.split()[:4] == ["first", "accuracy", "48", "24"]
    assert line.split()[-3:] == ["8", "of", "8"]
    assert "rte (not from MNLI)" in text
    assert "13 words in a row" in text
    assert "20 jobs, 20 of them finished" in text


def test_a_planted_leak_is_shown(tmp_path):
    suite = write_suite(tmp_path, "tasks: {first: {}}")
    lines = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("train", "valid")]
    (tmp_path / "valid.jsonl").write_text("\n".join([*lines[0][:3], *lines[1][3:]]))
    benchmark = plan_benchmark(suite, ["a"], (), str(tmp_path / "out"), False)
    text = preview(benchmark, facts_of(benchmark))
    assert "of 24 valid rows, in train: whole rows: 3; " in text
    assert "(many: the score is partly memory)" in text


def test_published_tables_have_one_protocol_each():
    tables = read_published()
    assert len({table.protocol for table in tables}) == len(tables)
    base = next(table for table in tables if table.protocol == "ModernBERT paper").scores["ModernBERT-base"]
    tasks = [value for key, value in base.items() if key.startswith("glue/")]
    assert len(tasks) == 8
    assert base["glue"] == pytest.approx(sum(tasks) / 8, abs=0.1)
    found = {table.protocol for table in tables_for({"glue/sst2"})}
    assert found == {"ModernBERT paper", "listed in the ModernBERT paper", "NeoBERT paper", "Ettin paper"}
    assert tables_for(set()) == []
    csn = {table.protocol: table.scores["ModernBERT-base"]["csn"] for table in tables_for({"csn"})}
    assert csn == {"Ettin paper": 75.9, "ModernBERT paper, retrieval": 56.4}


def test_only_whole_sets_of_the_hub_are_compared_with_published_scores(tmp_path):
    suite = load_suite("yamls/evaluation/glue.yaml")
    assert {published_key(task) for task in suite.tasks.values()} == {f"glue/{name}" for name in suite.tasks}
    part = load_suite("yamls/evaluation/glue.yaml", ["valid_rows=100"])
    assert {published_key(task) for task in part.tasks.values()} == {None}
    local = load_suite("yamls/evaluation/local.yaml")
    assert {published_key(task) for task in local.tasks.values()} == {None}


def test_a_page_beside_published_scores(tmp_path):
    """Rows of the hub are not at hand: the facts are those of local rows."""
    suite = write_suite(tmp_path, "tasks: {sst2: {}}")
    facts = facts_of(plan_benchmark(suite, ["a"], (), str(tmp_path / "out"), False))
    of_hub = (
        "{hub: nyu-mll/glue, config: sst2, text: text, labels: [late, early], protocol: mine, seeds: [1, 2]}"
    )
    (tmp_path / "hub.yaml").write_text(f"tasks: {{sst2: {of_hub}}}")
    benchmark = plan_benchmark(str(tmp_path / "hub.yaml"), ["a"], (), str(tmp_path / "out"), False)
    for job in benchmark.jobs:
        pretend_finished(job, 0.9)
    page = write_page(collect_results(benchmark, facts))
    published = page.partition("## Beside published scores")[2]
    assert "### This benchmark\n\nWeights: best. (protocol: mine)\n\n| model | sst2 |" in published
    assert "### Listed in the ModernBERT paper" in published
    for part in published.split("###")[1:]:
        assert part.count("| model |") == 1


def test_grids_of_glue():
    benchmark = plan_benchmark("yamls/evaluation/glue-grid.yaml", ["a"], ["seeds=[1]"], None, False)
    counts = {}
    for job in benchmark.jobs:
        counts[job.task.name] = counts.get(job.task.name, 0) + 1
    assert set(counts.values()) == {48}
    assert len(counts) == 8
    assert {job.task.epochs for job in benchmark.jobs if job.task.name == "rte"} == {1, 2, 3}
    assert {job.task.epochs for job in benchmark.jobs if job.task.name == "cola"} == {2, 5, 10}


def test_models_and_overrides(tmp_path):
    (tmp_path / "lr=1").mkdir()
    assert find_models(["runs/a", "epochs=1", "lr=1"]) == (["runs/a", "lr=1"], ["epochs=1"])
    with pytest.raises(ValueError, match="name at least one model after the suite"):
        find_models(["epochs=1"])
