"""Suites of tests with rows in files, and records of jobs that have not run."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from modernbert_train.benchmark.jobs import BenchmarkJob
from modernbert_train.tasks.results import JobResult, write_result

NUM_TRAIN, NUM_VALID = 48, 24


def _rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows of letters: `label` says which half of the alphabet they are of, `score` how many are of the first."""
    generator = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        letters = generator.choices("abcdefgh", k=generator.randint(3, 9))
        share = sum(letter in "abcd" for letter in letters) / len(letters)
        row = {"text": " ".join(letters), "other": " ".join(sorted(letters)), "score": share}
        rows.append(
            row | {"label": int(share > 0.5), "words": letters, "tags": [int(x in "ab") for x in letters]}
        )
    return rows


def write_rows(folder: Path, num_train: int = NUM_TRAIN, num_valid: int = NUM_VALID) -> None:
    """Write `train.jsonl` and `valid.jsonl`, and pairs and collections of retrieval."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, num_rows, seed in (("train", num_train, 0), ("valid", num_valid, 1)):
        _write(folder / f"{name}.jsonl", _rows(num_rows, seed))
    generator = random.Random(2)
    words = ["".join(generator.choices("abcdefgh", k=4)) for _ in range(200)]
    documents = [" ".join(words[5 * n : 5 * n + 5]) for n in range(40)]
    pairs = [{"query": " ".join(words[5 * n : 5 * n + 2]), "document": documents[n]} for n in range(40)]
    _write(folder / "pairs-train.jsonl", pairs[:30])
    _write(folder / "pairs-valid.jsonl", pairs[30:])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_suite(folder: Path, text: str, name: str = "little.yaml") -> str:
    """Write rows, and a suite whose tasks have them by default; return its path."""
    write_rows(folder)
    files = "{train: train.jsonl, valid: valid.jsonl}"
    defaults = f"{{files: {files}, text: text, labels: [late, early], seeds: [1, 2]}}"
    (folder / name).write_text(f"defaults: {defaults}\n{text}\n")
    return str(folder / name)


def pretend_finished(job: BenchmarkJob, quality: float, **fields: Any) -> None:
    """Write the record of a job that is right on a share of the rows."""
    job.out.mkdir(parents=True)
    (job.out / "model.safetensors").touch()
    labels = np.arange(400) % 2
    if job.task.kind == "regression":
        noise = np.random.default_rng(job.seed).normal(0, 1, 400)
        arrays = {"valid.predictions": quality * labels + (1 - quality) * noise, "valid.labels": labels}
    else:
        # Other seeds are wrong on other rows.
        wrong = np.random.default_rng(job.seed).permutation(400)[: round(400 * (1 - quality))]
        predictions = labels.copy()
        predictions[wrong] = 1 - labels[wrong]
        arrays = {"valid.predictions": predictions, "valid.labels": labels}
    settings = dataclasses.asdict(job.task)
    result = JobResult(
        task=job.task.name,
        kind=job.task.kind,
        model=job.model.path,
        seed=job.seed,
        metric=job.task.metric,
        scores={job.task.metric: {"valid": quality}},
        kept=job.task.keep,
        step=10,
        settings={key: value for key, value in settings.items() if key not in ("name", "folder")},
        protocol=job.task.protocol,
        num_rows={"train": 48, "valid": 400},
        cut_share={"train": 0.0, "valid": 0.0},
        seconds=1.0,
    )
    write_result(job.out, dataclasses.replace(result, **fields), arrays)
