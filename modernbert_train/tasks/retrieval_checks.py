"""Checks of the fields of a task of kind retrieval."""

from collections.abc import Iterator, Mapping

from modernbert_train.common.text import did_you_mean
from modernbert_train.config.quantities import check_at_least_one, check_not_negative, check_positive
from modernbert_train.tasks.schema import RetrievalConfig, Task


def retrieval_problems(tasks: Mapping[str, Task], task: Task) -> Iterator[str]:
    """Yield what is wrong with a task of kind retrieval; each problem begins with the field."""
    retrieval = task.retrieval or RetrievalConfig()
    files = {"corpus": retrieval.corpus, "queries": retrieval.queries}
    if retrieval.qrels is not None or any(files.values()):
        yield from (
            f"retrieval.{name} is missing: a collection needs corpus and queries"
            for name, file in files.items()
            if file is None
        )
    named = [
        bool(retrieval.mteb),
        retrieval.corpus is not None,
        bool(task.files.valid),
        bool(retrieval.evaluate_on),
    ]
    if sum(named) > 1:
        yield (
            "retrieval: only one of retrieval.mteb, retrieval.corpus, files.valid and retrieval.evaluate_on can say "
            "what is searched; leave the others out"
        )
    if not any(named) and task.hub is None:
        yield (
            "files.valid is missing: name pairs to score, or set retrieval.corpus and queries, retrieval.mteb or "
            "retrieval.evaluate_on"
        )
    if not (task.files.train or task.hub or retrieval.train_on) and retrieval.steps != 0:
        yield (
            "files.train is missing: name pairs to train on, or set hub or retrieval.train_on; or retrieval.steps: 0, "
            "to score a model without training"
        )
    if (task.files.train or task.files.valid or task.hub) and len(task.text) < 2:
        yield f"text is {task.text}: must name the columns of query and document, and of negatives if there are any"
    for field_name in ("train_on", "evaluate_on"):
        for other in getattr(retrieval, field_name):
            if other not in tasks:
                yield f"retrieval.{field_name}: there is no task {other!r}{did_you_mean(other, list(tasks))}"
            elif tasks[other].kind != "retrieval":
                yield f"retrieval.{field_name}: task {other} is of kind {tasks[other].kind}, not retrieval"
    yield from check_not_negative("retrieval.hard_negatives", retrieval.hard_negatives)
    first, last = retrieval.negative_ranks
    if not 1 <= first <= last:
        yield f"retrieval.negative_ranks is [{first}, {last}]: must be two ranks from 1, the lower first"
    if retrieval.query_tokens is not None and retrieval.query_tokens < 8:
        yield f"retrieval.query_tokens is {retrieval.query_tokens}: must be at least 8"
    if retrieval.steps is not None:
        yield from check_not_negative("retrieval.steps", retrieval.steps)
    if retrieval.scale is not None:
        yield from check_positive("retrieval.", {"scale": retrieval.scale})
    yield from check_at_least_one("retrieval.", {"dimension": retrieval.dimension})
