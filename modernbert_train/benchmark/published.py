"""Published scores, each with its protocol and source, for the tasks of a suite that are on the same rows.

Scores of two protocols differ also where the models do not: which settings were tried, which evaluation is kept, from
which model a task starts. So every protocol has a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from modernbert_train.tasks.schema import Task

_FILE = Path(__file__).with_name("published.yaml")
_GLUE = ("nyu-mll/glue", "glue")
# Tasks and benchmarks of mteb -> key.
_MTEB: dict[tuple[str, ...], str] = {
    ("BEIR",): "beir",
    ("MultiLongDocRetrieval/en",): "mldr",
    ("COIRCodeSearchNetRetrieval",): "csn",
    ("StackOverflowQA",): "sqa",
}
MEAN_OF_GLUE = "glue"


@dataclass(frozen=True)
class PublishedTable:
    """Scores by one protocol."""

    protocol: str
    source: str
    about: str
    # Model -> key of a task -> score, in percent.
    scores: dict[str, dict[str, float]]


@cache
def read_published() -> tuple[PublishedTable, ...]:
    """Return all published tables."""
    return tuple(PublishedTable(**table) for table in yaml.safe_load(_FILE.read_text(encoding="utf-8")))


def published_key(task: Task) -> str | None:
    """Return under which key scores on the rows of a task are published; None for rows of one's own."""
    if task.hub in _GLUE and task.split is None and task.train_rows is None and task.valid_rows is None:
        return f"glue/{task.config}"
    if task.retrieval is None or (key := _MTEB.get(tuple(task.retrieval.mteb))) is None:
        return None
    if task.retrieval.multi_vector:
        return f"{key} multi-vector"
    in_domain = key == "mldr" and task.hub is not None and "mldr" in task.hub.lower()
    return f"{key} in domain" if in_domain else key


def tables_for(keys: set[str]) -> list[PublishedTable]:
    """Return the published tables, with those scores only that some keys ask for; the mean of GLUE comes with it."""
    if any(key.startswith("glue/") for key in keys):
        keys = keys | {MEAN_OF_GLUE}
    found = []
    for table in read_published():
        scores = {
            model: chosen
            for model, values in table.scores.items()
            if (chosen := {key: value for key, value in values.items() if key in keys})
        }
        if scores:
            found.append(PublishedTable(table.protocol, table.source, table.about, scores))
    return found
