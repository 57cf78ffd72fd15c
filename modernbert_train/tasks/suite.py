"""Suites of tasks: read from YAML and the command line, checked, and found by name.

    defaults of the dataclasses  <  `defaults` of the suite  <  the task  <  overrides

A suite may include others, as recipes do. An override `epochs=1` holds for every task of the suite,
`tasks.rte.epochs=1` for one of them.
"""

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from modernbert_train.common.text import did_you_mean, list_problems, shorten, without_breaks
from modernbert_train.config.fields import section_fields
from modernbert_train.config.loading import fill_dataclass
from modernbert_train.config.overrides import (
    COMMAND_LINE,
    ConfigSource,
    merge_sources,
    nest,
    parse_override,
    read_file,
    read_mapping,
    unknown_keys,
)
from modernbert_train.config.shipped import find_yaml, shipped_yamls
from modernbert_train.config.validation import RUN_NAME, RUN_NAME_RULE
from modernbert_train.tasks.checks import METRICS, no_task, task_problems
from modernbert_train.tasks.schema import (
    SplitsConfig,
    Suite,
    SuiteConfig,
    Task,
    TaskConfig,
    have_spans,
)

_WHAT = "a suite"
_EXPECTED = "a suite is a mapping with tasks (tasks: {sst2: {...}, ...})"
_SHIPPED = "yamls/evaluation"
# A task of this suite is meant where other suites that ship with the package have one of the same name.
_FIRST = "glue"


def load_suite(
    path: str | Path, overrides: list[str] | None = None, only: str | None = None, origin: str = COMMAND_LINE
) -> Suite:
    """Load a suite of tasks.

    Args:
        path: the YAML file, or the name of one that ships with the package.
        overrides: `folder=PATH`, `defaults.key=value`, `tasks.NAME.key=value`, or `key=value` for all tasks.
        only: the task that `key=value` is for, and the only one that is checked; None: all.
        origin: where the overrides are written, for error messages.

    Returns:
        The suite, whose tasks have all their fields; a file is found by `Task.path`.

    Raises:
        ValueError: The file cannot be read, a field is unknown, or values are wrong; problems of a kind together.
    """
    path = find_yaml(path)
    sources = read_file(path, expected=_EXPECTED)
    sources += [_override(text, origin) for text in overrides or []]
    _raise(
        path, [f"{source.origin}: {text}" for source in sources for text in _label_problems(source.values)]
    )
    sources = _by_task(path, _with_named_sets(sources), only)
    config: SuiteConfig = fill_dataclass(sources, SuiteConfig, path)[1]
    root = _root(config.folder, path, sources)
    _raise(path, [*_suite_problems(config)])
    tasks = {name: _task(name, task, root) for name, task in config.tasks.items()}
    shown = os.path.normpath(path)
    checked = tasks if only is None else [only]
    _raise(path, [f"{shown}: tasks.{name}.{text}" for name in checked for text in task_problems(tasks, name)])
    return Suite(path.stem, path, tasks)


def find_task(reference: str, overrides: list[str] | None = None) -> Task:
    """Load the task that a user names: `FILE.yaml:NAME`, or `SUITE/NAME` or `NAME` of a suite in the package.

    Returns:
        The task.

    Raises:
        ValueError: There is no such task, or the suite is wrong.
    """
    file, name = locate(reference)
    return load_suite(file, overrides, only=name).tasks[name]


def locate(reference: str) -> tuple[Path, str]:
    """Return the suite and the name of the task that a user names; see `find_task`.

    Returns:
        The path of the YAML file, and the name of a task, which may not be in it.

    Raises:
        ValueError: No suite has such a task.
    """
    file, colon, name = reference.rpartition(":")
    if colon and file.endswith((".yaml", ".yml")):
        return find_yaml(file), name
    if reference.endswith((".yaml", ".yml")):
        path = find_yaml(reference)
        own = ", ".join(_task_names(path)) or "none"
        raise ValueError(f"{reference} is a suite of tasks; write {reference}:NAME, with one of {own}")
    shipped = {path.stem: path for path in shipped_yamls(_SHIPPED)}
    suite, slash, name = reference.rpartition("/")
    if slash and suite in shipped:
        return shipped[suite], name
    tasks = {
        stem: _task_names(shipped[stem]) for stem in sorted(shipped, key=lambda stem: (stem != _FIRST, stem))
    }
    if not slash:
        for stem, names in tasks.items():
            if name in names:
                return shipped[stem], name
    known = [f"{stem}/{task}" if slash else task for stem, names in tasks.items() for task in names]
    hint = did_you_mean(reference, known) or f"; those of the package are {', '.join(dict.fromkeys(known))}"
    raise ValueError(f"there is no task {reference!r}{hint}; write one of your own as FILE.yaml:NAME")


def _task_names(path: Path) -> list[str]:
    tasks = read_mapping(path, os.path.normpath(path), _EXPECTED).get("tasks")
    return list(tasks) if isinstance(tasks, dict) else []


def _raise(path: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(list_problems(os.path.normpath(path), list(map(without_breaks, problems))))


def _override(text: str, origin: str) -> ConfigSource:
    """Return an override as a source; a field of a task stands for that of all tasks, under the key `*`."""
    keys, value = parse_override(text, origin)
    if keys[0] not in ("defaults", *section_fields(SuiteConfig)):
        keys = ["tasks", "*", *keys]
    return ConfigSource(origin, nest(keys, value), depth=len(keys))


def _label_problems(values: dict[str, Any]) -> Iterator[str]:
    for task in _task_mappings(values):
        labels = task.get("labels")
        if isinstance(labels, list) and any(isinstance(label, bool) for label in labels):
            yield (
                f"labels is {shorten(labels)}: YAML reads yes, no, on, off, true and false without quotes as a truth "
                'value; write ["yes", "no"]'
            )


def _task_mappings(values: dict[str, Any]) -> list[dict[str, Any]]:
    tasks = values.get("tasks")
    found = [values.get("defaults"), *(tasks.values() if isinstance(tasks, dict) else [])]
    return [task for task in found if isinstance(task, dict)]


def _with_named_sets(sources: list[ConfigSource]) -> list[ConfigSource]:
    """Return the sources with `text` as a list, and valid sets with names where one or several are written without.

    Valid sets without names replace all earlier ones: null removes these.
    """
    spelled: list[ConfigSource] = []
    for source in sources:
        before = merge_sources(spelled)
        values = dict(source.values)
        if isinstance(values.get("defaults"), dict):
            values["defaults"] = _spell_out(values["defaults"], _task_mappings(before))
        if isinstance(values.get("tasks"), dict):
            values["tasks"] = {
                name: _spell_out(task, _task_mappings(before)) if isinstance(task, dict) else task
                for name, task in values["tasks"].items()
            }
        spelled.append(replace(source, values=values))
    return spelled


def _entry(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        inner = values.get(key)
        values = inner if isinstance(inner, dict) else {}
    return values


def _spell_out(task: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    task = dict(task)
    if isinstance(task.get("text"), str):
        task["text"] = [task["text"]]
    for section in ("files", "splits"):
        sets = _entry(task, section).get("valid")
        if isinstance(sets, str):
            named = {"valid" if section == "files" else sets: sets}
        elif isinstance(sets, list) and all(isinstance(item, str) for item in sets):
            named = {Path(item).name.partition(".")[0] if section == "files" else item: item for item in sets}
        else:
            continue
        earlier = [name for values in before for name in _entry(values, section, "valid")]
        task[section] = {**task[section], "valid": dict.fromkeys(earlier) | named}
    return task


def _by_task(path: Path, sources: list[ConfigSource], only: str | None) -> list[ConfigSource]:
    """Return the sources with the defaults, and overrides of all tasks, under every task; defaults come first.

    Overrides of all tasks are for `only` one if that is not None.

    Raises:
        ValueError: There is no task, or not `only`; a field or the task of an override does not exist.
    """
    files = [source for source in sources if source.depth == 0]
    names = [str(name) for name, task in _entry(merge_sources(files), "tasks").items() if task is not None]
    if only is not None and only not in names:
        raise ValueError(f"{os.path.normpath(path)}: {no_task(only, names)}")
    problems: list[str] = []
    defaults, others = [], []
    for source in sources:
        values = dict(source.values)
        shared = values.pop("defaults", None) or {}
        tasks = values.get("tasks")
        if not isinstance(shared, dict):
            problems.append(f"{source.origin}: defaults is {shorten(shared)}, expected fields of a task")
            continue
        found = list(unknown_keys(shared, TaskConfig, ("defaults",), SuiteConfig, _WHAT))
        if isinstance(tasks, dict) and "*" in tasks:
            shown = source.values["tasks"]["*"]
            found += [
                text.removeprefix("tasks.*.")
                for text in unknown_keys(shown, TaskConfig, ("tasks", "*"), SuiteConfig, _WHAT)
            ]
            values["tasks"] = dict.fromkeys(names if only is None else [only], tasks["*"])
            others.append(replace(source, values=values))
        else:
            found += list(unknown_keys(values, SuiteConfig, (), SuiteConfig, _WHAT))
            if source.depth and isinstance(tasks, dict):
                found += [no_task(str(name), names) for name in tasks if name not in names]
            others.append(replace(source, values=values))
        problems += [f"{source.origin}: {text}" for text in found]
        if shared:
            defaults.append(replace(source, values={"tasks": dict.fromkeys(names, shared)}))
    if not names and not problems:
        problems.append(f"{os.path.normpath(path)}: has no tasks; {_EXPECTED}")
    _raise(path, problems)
    return [*defaults, *others]


def _root(folder: str, path: Path, sources: list[ConfigSource]) -> Path:
    """Return the root of relative paths: that of a command line is relative to the working directory."""
    if not folder:
        return path.parent
    stated = [source for source in sources if source.values.get("folder")]
    return Path(folder).expanduser() if stated[-1].depth else path.parent / Path(folder).expanduser()


def _task(name: str, config: TaskConfig, folder: Path) -> Task:
    values = {field.name: getattr(config, field.name) for field in fields(TaskConfig)}
    if config.metric == "auto":
        has_spans = config.kind == "tokens" and have_spans(config.labels)
        values["metric"] = "span_f1" if has_spans else METRICS[config.kind][0]
    if config.hub is not None and not config.splits.valid:
        values["splits"] = SplitsConfig(config.splits.train, {"validation": "validation"})
    return Task(name=name, folder=folder, **values)


def _suite_problems(config: SuiteConfig) -> Iterator[str]:
    for name in config.tasks:
        if not RUN_NAME.fullmatch(name):
            yield f"tasks: a task is named {name!r}: {RUN_NAME_RULE}"
