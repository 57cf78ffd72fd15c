"""The work folder of an unfinished store: its lock, its job, and the results of finished tasks.

    STORE/.work/job.json             the job; a restart compares it with its own
    STORE/.work/<stage>/<number>/    result of a finished task, renamed from <number>....tmp once it is complete
    STORE/.work/lock                 held by the running process

While .work exists and manifest.json does not, STORE is unfinished: training refuses it, the same command resumes it,
and another command is refused. .work is deleted once manifest.json exists.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data_prep.tokenize.job import JOB_NAME, WORK_NAME, Job, job_to_json
from modernbert_train.common.files import locked, write_atomically
from modernbert_train.store.manifest import MANIFEST_NAME, is_store, read_manifest_json


def is_finished_by(job: Job) -> bool:
    """Check whether the same command has finished the store."""
    return is_store(job.store) and read_manifest_json(job.store).text("command") == job.settings.command


def begin(job: Job, overwrite: bool) -> None:
    """Start a job, or resume it if the store holds its unfinished work. The caller holds the lock.

    Nothing but a store, finished or not, is ever deleted.

    Args:
        job: to start.
        overwrite: whether to replace a finished store or the unfinished one of another command.

    Raises:
        ValueError: The store is finished, or unfinished but of another command or of inputs that have changed.
    """
    if is_store(job.store):
        if not overwrite:
            raise ValueError(
                f"store: {job.store} is finished; name another folder, or replace it with --overwrite"
            )
        (job.store / MANIFEST_NAME).unlink()  # first: a half-deleted store must not look finished
    elif (job.work / JOB_NAME).is_file():
        found = json.loads((job.work / JOB_NAME).read_text(encoding="utf-8"))
        wanted = job_to_json(job)
        found["settings"]["max_lost_text"] = job.settings.max_lost_text
        difference = _difference(found, wanted)
        if difference is None:
            write_atomically(job.work / JOB_NAME, json.dumps(wanted))
            for unfinished in job.work.glob("*/*.tmp"):
                shutil.rmtree(unfinished)
            return
        if not overwrite:
            raise ValueError(
                f"store: {job.store} is an unfinished store of another command ({difference}); "
                "finish it with that command, name another folder, or replace it with --overwrite"
            )
    for path in job.store.iterdir():
        if path == job.work:
            for inner in path.iterdir():
                if inner.name != "lock":
                    _delete(inner)
        else:
            _delete(path)
    write_atomically(job.work / JOB_NAME, json.dumps(job_to_json(job)))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Describe how two jobs differ; None if they do not."""
    if found == wanted:
        return None
    before, now = found["settings"]["command"], wanted["settings"]["command"]
    if before != now:
        return f"it was `{before}`"
    if found["tokenizer_fingerprint"] != wanted["tokenizer_fingerprint"]:
        return "the tokenizer has changed since"
    if found["inputs"] != wanted["inputs"]:
        return f"the input {_changed_input(found['inputs'], wanted['inputs'])} has changed since"
    return "it was started by another version of this program, or the benchmarks have changed"


def _changed_input(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    before = {entry[0]: entry for entries in found.values() for entry in entries}
    now = {entry[0]: entry for entries in wanted.values() for entry in entries}
    return str(next(item for item in {**now, **before} if before.get(item) != now.get(item)))


@contextmanager
def store_locked(store: Path) -> Iterator[None]:
    """Hold the lock of a store, which the kernel releases when the process ends.

    Afterwards, the work folder of a finished store is deleted.

    Raises:
        ValueError: The store is a file, a folder of something else, or locked by another process.
    """
    if store.exists() and not store.is_dir():
        raise ValueError(f"store: {store} is a file; name a new or empty folder")
    work = store / WORK_NAME
    if store.exists() and any(store.iterdir()) and not work.is_dir() and not is_store(store):
        raise ValueError(f"store: {store} is not empty and not a token store; name a new or empty folder")
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(work / "lock", wait=False))
        except BlockingIOError as error:
            raise ValueError(
                f"store: another process is preparing {store}; wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            if is_store(store):
                shutil.rmtree(work)
