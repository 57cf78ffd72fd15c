"""Benchmark results in a report."""

import json
from pathlib import Path

import numpy as np
import pytest

from modernbert_train.cli import main
from modernbert_train.reporting.benchmarks import read_benchmark
from modernbert_train.tasks.results import JobResult, write_result
from tests.helpers.pages import Parsed, write_run


def write_job(folder: Path, accuracy: float, **fields: object) -> Path:
    job = {
        "task": "sst2", "kind": "classification", "model": "runs/base", "seed": 1, "metric": "accuracy",
        "scores": {"accuracy": {"valid": accuracy}}, "kept": "best", "step": 3, "protocol": "paper",
        "settings": {"learning_rate": 8e-5, "epochs": 2}, "num_rows": {"valid": 9}, "cut_share": {}, "seconds": 1.0,
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_result(folder, JobResult(**(job | fields)), {"valid.labels": np.zeros(1)})
    return folder


def results(**changes: object) -> dict:
    """Return the content of results.json of a benchmark."""
    score = {
        "model": "base",
        "task": "sst2",
        "metric": "accuracy",
        "kept": "last",
        "setting": "",
        "seeds": {"1": 0.8, "2": 0.9},
    }
    difference = {
        "model": "base",
        "reference": "twin",
        "task": "sst2",
        "value": 0.05,
        "interval": [0.01, 0.09],
        "verdict": "better",
    }
    mine = {"task": "mine", "seeds": {"1": 0.5}}
    content = {
        "tasks": {"sst2": {"protocol": "paper"}, "mine": {"protocol": ""}},
        "scores": [score, score | {"model": "twin", "seeds": {"1": 0.7}}, score | mine],
        "differences": [difference],
    }  # fmt: skip
    return content | changes


def test_a_benchmark_beside_a_run(tmp_path, capsys):
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue/results.json").write_text(json.dumps(results()))
    write_job(tmp_path / "glue/jobs/a", 0.1)  # is in results.json already
    run = write_run(tmp_path / "toy")
    assert main(["report", str(run), str(tmp_path / "glue"), "--out", str(tmp_path / "x.html")]) == 0
    page, markdown = Parsed((tmp_path / "x.html").read_text()), (tmp_path / "x.md").read_text()
    assert page.texts["h1"] == ["toy"]
    assert "## Benchmark glue" in markdown
    assert "| sst2 | accuracy | last | 85.0% ± 7.1% | 70.0% |" in markdown
    assert "| mine | accuracy | last | 50.0% |" in markdown  # a table of its own, without the twin
    assert "Scores of different protocols cannot be compared" in markdown
    assert "| base | twin | sst2 | +5.0% | +1.0% | +9.0% | better |" in markdown
    numbers = json.loads((tmp_path / "x-numbers.json").read_text())
    (section,) = [section for section in numbers["sections"] if section["title"] == "Benchmark glue"]
    assert [table["title"].split("protocol ")[-1] for table in section["tables"][:2]] == [
        "paper",
        "of its own",
    ]
    assert section["charts"][0]["rows"][0] == {"label": "sst2", "group": "base", "score": [80.0, 90.0]}


def test_single_jobs(tmp_path, capsys):
    folder = tmp_path / "<jobs>"
    for seed, accuracy in ((1, 0.8), (2, 0.9)):
        write_job(folder / f"a/seed-{seed}", accuracy, seed=seed)
        write_job(folder / f"twin/seed-{seed}", accuracy - 0.1, seed=seed, random_twin=True)
    write_job(folder / "slow", 0.6, settings={"learning_rate": 1e-5, "epochs": 2})
    write_job(folder / "shuffled", 0.5, settings={"learning_rate": 8e-5, "epochs": 2, "shuffle": 3})
    write_job(folder / "damaged", 0.5)
    (folder / "damaged/result.json").write_text("{")
    assert main(["report", str(folder)]) == 0
    page, markdown = Parsed((folder / "report.html").read_text()), (folder / "report.md").read_text()
    assert (
        "| sst2 | accuracy | best | learning rate 8e-05, epochs 2 | 85.0% ± 7.1% | 75.0% ± 7.1% |" in markdown
    )
    assert "| sst2 | accuracy | best | learning rate 8e-05, epochs 2 | 50.0% |  |" in markdown
    assert "| sst2 | accuracy | best | learning rate 1e-05, epochs 2 | 60.0% |  |" in markdown
    assert "damaged/result.json is not the record of a job" in markdown
    assert page.texts["h1"] == ["<jobs>"]


def test_jobs_in_the_folder_of_a_run(tmp_path, capsys):
    run = write_run(tmp_path / "toy")
    write_job(run / "finetuned/sst2", 0.9)
    assert main(["report", str(run)]) == 0
    assert (
        "| sst2 | accuracy | best | learning rate 8e-05, epochs 2 | 90.0% |"
        in (run / "report.md").read_text()
    )


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[]",
        "{}",
        json.dumps(results(differences=[{"value": None, "interval": []}])),
        json.dumps(results(tasks={})),
    ],
)
def test_damaged_results(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    record = read_benchmark(tmp_path, "x")
    assert not record.scores
    assert "results.json cannot be read" in record.problems[0]
