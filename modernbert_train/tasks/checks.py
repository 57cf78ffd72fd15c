"""Checks of the fields of a task: whether its values are in range, and fit together."""

from collections.abc import Iterator, Mapping

from modernbert_train.common.text import did_you_mean, shorten
from modernbert_train.config.quantities import (
    check_at_least_one,
    check_below_one,
    check_not_negative,
    check_positive,
    check_share,
)
from modernbert_train.config.validation import NUM_SEEDS
from modernbert_train.tasks.retrieval_checks import retrieval_problems
from modernbert_train.tasks.schema import Task, have_spans

# The first is that of `metric: auto`.
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "matthews"),
    "regression": ("spearman", "pearson"),
    "tokens": ("accuracy", "macro_f1", "span_f1"),
    "retrieval": ("ndcg@10",),
}


def no_task(name: str, known: list[str]) -> str:
    """Return the message about the name of a task that does not exist."""
    hint = did_you_mean(name, known) or f"; the tasks are {', '.join(known) or 'none'}"
    return f"there is no task {name!r}{hint}"


def task_problems(tasks: Mapping[str, Task], name: str) -> Iterator[str]:
    """Yield what is wrong with a task: each problem begins with the field."""
    task = tasks[name]
    if task.kind == "retrieval":
        yield from retrieval_problems(tasks, task)
    else:
        yield from _row_problems(task)
    if task.metric not in METRICS[task.kind]:
        yield f"metric is {task.metric}: for kind {task.kind} it is one of {', '.join(METRICS[task.kind])}"
    elif task.metric == "f1" and len(task.labels) != 2:
        yield f"metric is f1, which is that of the second of two classes; labels has {len(task.labels)}: use macro_f1"
    elif task.metric == "span_f1" and not have_spans(task.labels):
        yield "metric is span_f1, but labels are not O, B-X and I-X; use accuracy or macro_f1"
    yield from _start_problems(tasks, name)
    yield from check_positive(
        "", {"learning_rate": task.learning_rate, "eps": task.eps, "epochs": task.epochs}
    )
    yield from check_not_negative("weight_decay", task.weight_decay)
    whole = {"batch_size": task.batch_size, "micro_batch_tokens": task.micro_batch_tokens}
    optional = {"train_rows": task.train_rows, "valid_rows": task.valid_rows, "patience": task.patience}
    whole |= {"evaluate_per_epoch": task.evaluate_per_epoch}
    whole |= {key: value for key, value in optional.items() if value is not None}
    yield from check_at_least_one("", whole)
    if task.max_tokens < 8:
        yield f"max_tokens is {task.max_tokens}: must be at least 8"
    if task.gradient_clip_norm is not None:
        yield from check_positive("", {"gradient_clip_norm": task.gradient_clip_norm})
    for key, value in {
        "warmup": task.warmup,
        "classifier_dropout": task.classifier_dropout,
        "betas[0]": task.betas[0],
        "betas[1]": task.betas[1],
    }.items():
        yield from check_below_one(key, value)
    if not task.seeds or len(set(task.seeds)) < len(task.seeds):
        yield f"seeds is {task.seeds}: must be different whole numbers, such as [0, 1, 2]"
    for seed in [*task.seeds, *([] if task.seed is None else [task.seed])]:
        if not 0 <= seed < NUM_SEEDS:
            yield f"seed is {seed}: must be at least 0 and less than 2**32"


def _row_problems(task: Task) -> Iterator[str]:
    most = 1 if task.kind == "tokens" else 2
    if not 1 <= len(task.text) <= most:
        yield (
            f"text is {task.text}: must name {'one column' if most == 1 else 'one or two columns'} for kind {task.kind}"
        )
    if task.kind == "regression":
        if task.labels:
            yield f"labels is {shorten(task.labels)}: a regression has numbers as labels; leave labels out"
    elif len(task.labels) < 2:
        yield f"labels is {task.labels}: must name at least two classes"
    elif len(set(task.labels)) < len(task.labels):
        yield f"labels is {shorten(task.labels)}: a name stands twice"
    if task.hub is None:
        if not task.files.train:
            yield "files.train is missing: set files: {train: PATH, valid: PATH}, or hub: NAME of a dataset"
        elif not task.files.valid and task.split is None:
            yield "files.valid is missing: set it, or split: {valid_fraction: 0.1} to hold rows out"
    elif task.files.train or task.files.valid:
        yield f"hub is {task.hub}, but files are set too; leave one of them out (hub=null on a command line)"
    if task.split is not None:
        yield from check_share("split.valid_fraction", task.split.valid_fraction)


def _start_problems(tasks: Mapping[str, Task], name: str) -> Iterator[str]:
    chain = [name]
    while (before := tasks[chain[-1]].start_from) is not None:
        if before not in tasks:
            if len(chain) == 1:
                yield f"start_from is {before!r}: {no_task(before, list(tasks))}"
            return
        if before in chain:
            circle = " <- ".join([*chain, before])
            yield f"start_from is {tasks[name].start_from!r}: tasks start from each other, {circle}"
            return
        chain.append(before)
