"""Patterns -> files, dataset folders and Hub ids. What is not taken is named."""

import glob
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.inputs.formats import ALLOWED, kind_of
from data_prep.inputs.rows import HUB_PREFIX

HIDDEN, OTHER, LINKED = "hidden_files", "other_files", "linked_twice"  # reasons why a file is left out
MAX_NAMED = 3
# .txt files that stand beside documents and describe them
COMPANION = re.compile(r"(readme|(licen[cs]e|source|notice)s?(?![a-z0-9])|robots\.txt)", re.IGNORECASE)


class Found(NamedTuple):
    """The inputs that patterns stand for, each once, and the files in their folders that are left out."""

    items: list[str]
    left_out: dict[str, list[str]]  # reason -> paths
    companions: list[str]  # items such as README.txt beside other .txt files, which nobody named

    def counts(self) -> dict[str, int]:
        """Return the number of files left out for every reason."""
        return {reason: len(paths) for reason, paths in self.left_out.items()}

    def describe(self, text_files: str = "") -> str:
        """Describe what is read and what is left out, such as `2 .txt; left out 1 other files (README.md)`.

        Args:
            text_files: what to add about .txt files.

        Returns:
            The description.
        """
        endings = Counter(kind.ending if (kind := kind_of(item)) else "datasets" for item in self.items)
        text = ", ".join(f"{count:,} {ending}" for ending, count in sorted(endings.items())) + text_files
        for reason, paths in sorted(self.left_out.items()):
            named = ", ".join(sorted(os.path.basename(path) for path in paths)[:MAX_NAMED])
            more = ", ..." if len(paths) > MAX_NAMED else ""
            text += f"; left out {len(paths):,} {reason.replace('_', ' ')} ({named}{more})"
        return text


def resolve_inputs(patterns: Iterable[str]) -> Found:
    """Resolve patterns to files, dataset folders and Hub ids, each once, the matches of a pattern sorted.

    A folder stands for all files below it, through links too, which must be of one format.

    Returns:
        The inputs in the order of the patterns.

    Raises:
        ValueError: A pattern matches nothing or files of several formats, a file has an unknown ending, or a folder
            holds no document.
    """
    items: dict[str, str] = {}  # real path -> path
    left_out: dict[str, list[str]] = defaultdict(list)
    companions: list[str] = []
    for pattern in patterns:
        if pattern.startswith(HUB_PREFIX):
            items[pattern] = pattern
            continue
        expanded = os.path.expanduser(pattern)
        matches = [expanded] if os.path.exists(expanded) else _matches(expanded)
        if not matches:
            raise ValueError(f"input: no file matches {pattern!r}; check the path, and quote the pattern")
        files = [file for path in matches for file in _files_of(path, left_out)]
        _check_one_format(expanded, files)
        if matches != [expanded] or os.path.isdir(expanded):
            companions += _companions(files)
        for file in files:
            known = items.setdefault(os.path.realpath(file), file)
            if os.path.normpath(known) != os.path.normpath(file):
                left_out[LINKED].append(file)
    return Found(
        list(items.values()),
        {reason: sorted(set(paths)) for reason, paths in left_out.items()},
        [item for item in items.values() if item in companions],
    )


def _companions(files: list[str]) -> list[str]:
    """Find the files among .txt files that are named like descriptions of the others."""
    kinds = [kind_of(file) for file in files]
    found = [
        file
        for file, kind in zip(files, kinds, strict=True)
        if kind is not None and kind.format == "txt" and COMPANION.match(os.path.basename(file))
    ]
    return found if 2 * len(found) <= len(files) else []  # otherwise these are the documents


def _matches(pattern: str) -> list[str]:
    """Return the sorted matches of a pattern. `**` stands for folders of any depth; glob's never ends in a circle."""
    if pattern.endswith(f"{os.sep}**"):
        return _matches(pattern[: -len(f"{os.sep}**")])
    head, stars, tail = pattern.partition(f"**{os.sep}")
    if not stars or not (head == "" or head.endswith(os.sep)):
        return sorted(glob.glob(pattern))
    found = set()
    for root in glob.glob(head) if head else [""]:
        for folder, _ in _walk(root or os.curdir, defaultdict(list)):
            below = os.path.relpath(folder, root or os.curdir)
            joined = root if below == os.curdir else os.path.join(root, below)
            found.update(_matches(os.path.join(glob.escape(joined), tail)))
    return sorted(found)


def _walk(root: str, left_out: dict[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below a root and its files, without what is hidden, each folder once however it is linked.

    Raises:
        ValueError: A folder cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise ValueError(f"input: {error.filename} cannot be listed ({error.strerror}); make it readable")

    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        if real in seen:
            left_out[LINKED].append(folder)
            folders.clear()
            continue
        seen.add(real)
        left_out[HIDDEN] += [
            os.path.join(folder, name) for name in (*folders, *files) if name.startswith(".")
        ]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folder, [os.path.join(folder, name) for name in files if not name.startswith(".")]
    if not left_out[HIDDEN]:
        del left_out[HIDDEN]


def _files_of(path: str, left_out: dict[str, list[str]]) -> list[str]:
    if not os.path.isdir(path):
        if kind_of(path) is None:
            raise ValueError(
                f"input: {path} has an unknown ending; allowed: {ALLOWED}; a folder of such files, a folder written "
                "by datasets.save_to_disk, and hf:NAME[@REVISION][:CONFIG][:SPLIT]"
            )
        return [path]
    if os.path.exists(os.path.join(path, "dataset_dict.json")):
        try:
            splits = list(json.loads(Path(path, "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
        except (ValueError, KeyError, TypeError, RecursionError):
            splits = []
        name = splits[0] if splits else "train"
        raise ValueError(
            f"input: {path} is a dataset with the splits {', '.join(splits)}; name one: {path}/{name}"
        )
    if os.path.exists(os.path.join(path, "state.json")):
        return [path]
    files = sorted(file for _, files in _walk(path, left_out) for file in files)
    taken = [file for file in files if kind_of(file) and (os.path.isfile(file) or os.path.islink(file))]
    if not taken:
        raise ValueError(f"input: {path} is a folder without documents; endings of documents: {ALLOWED}")
    if others := sorted(set(files) - set(taken)):
        left_out[OTHER] += others
    return taken


def _check_one_format(pattern: str, files: list[str]) -> None:
    kinds = [kind for file in files if (kind := kind_of(file))]
    endings = Counter(kind.ending for kind in kinds)
    if len({kind.format for kind in kinds}) <= 1:
        return
    counts = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common())
    folder = pattern if os.path.isdir(pattern) else os.path.commonpath(map(os.path.dirname, files))
    example = os.path.join(
        folder, "**", f"*{max(endings, key=lambda ending: (endings[ending], len(ending)))}"
    )
    raise ValueError(
        f"input: {pattern} holds files of several formats: {counts}; name those to take, such as '{example}'"
    )
