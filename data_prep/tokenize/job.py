"""A preparation: what is to be done, and the folder in which its unfinished work lies.

    STORE/.work/job.json               all that decides the bytes of the store; a restart compares it
    STORE/.work/<stage>/<number>/      result of a finished task; its rename from <number>...tmp is the mark
    STORE/.work/lock                   held by the process that runs here

The folder .work makes an unfinished store of STORE: training refuses it, the same command goes on where it
stopped, another one is refused. It is deleted when manifest.json is there.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.inputs.conditions import Condition
from data_prep.inputs.parts import Input, Part
from data_prep.inputs.rows import Span
from modernbert_train.common.files import locked as file_locked
from modernbert_train.common.files import write_atomically
from modernbert_train.store.manifest import MANIFEST_NAME, is_store, read_manifest_json

WORK_NAME = ".work"
JOB_NAME = "job.json"


@dataclass(frozen=True)
class Settings:
    """What the user asks for, apart from the inputs."""

    text_fields: dict[str, str]  # of every source
    conditions: dict[str, list[Condition]]  # of every source
    licences: dict[str, str]
    valid_fraction: float
    shard_bytes: int
    skip_unreadable: bool
    dedup: bool
    near_dedup: bool
    ngram_words: int  # that no document may share with a benchmark
    command: str  # for the manifest


@dataclass(frozen=True)
class Job:
    """All that decides the bytes of a store, and where it lies."""

    store: Path
    settings: Settings
    tokenizer_fingerprint: str
    dtype: str  # of the ids
    inputs: dict[str, list[Input]]
    benchmarks: list[Input]
    parts: list[Part]

    @property
    def work(self) -> Path:
        """Folder of what is unfinished."""
        return self.store / WORK_NAME

    def task_folder(self, stage: str, number: int) -> Path:
        """Where the result of a finished task lies."""
        return self.work / stage / f"{number:06d}"


def _to_json(job: Job) -> dict[str, Any]:
    content = asdict(replace(job, store=Path()))
    del content["store"]
    loaded: dict[str, Any] = json.loads(json.dumps(content))  # tuples become lists, as a loaded file has them
    return loaded


def load_job(store: Path) -> Job:
    """The job that an unfinished store holds."""
    content = json.loads((store / WORK_NAME / JOB_NAME).read_text(encoding="utf-8"))
    content["inputs"] = {s: [Input(*entry) for entry in entries] for s, entries in content["inputs"].items()}
    content["benchmarks"] = [Input(*entry) for entry in content["benchmarks"]]
    content["parts"] = [
        Part(source, tuple(Span(*span) for span in spans), num_bytes)
        for source, spans, num_bytes in content["parts"]
    ]
    settings = content["settings"]
    settings["conditions"] = {
        source: [Condition(**entry) for entry in entries]
        for source, entries in settings["conditions"].items()
    }
    content["settings"] = Settings(**settings)
    return Job(store=store, **content)


def is_finished_by(job: Job) -> bool:
    """Whether the store was finished by the same command."""
    return is_store(job.store) and read_manifest_json(job.store)["command"] == job.settings.command


def begin(job: Job, overwrite: bool) -> None:
    """Make the store the unfinished one of `job`, or find it as it was left. Call it with the lock held.

    Only what is, or was to become, a store is ever deleted.
    ValueError: a finished store, or an unfinished one of another command or of inputs that changed since.
    """
    if is_store(job.store):
        if not overwrite:
            raise ValueError(
                f"store: {job.store} is finished; name another folder, or replace it with --overwrite"
            )
        (job.store / MANIFEST_NAME).unlink()  # first, so that no half-deleted store passes for a whole one
    elif (job.work / JOB_NAME).is_file():
        found = json.loads((job.work / JOB_NAME).read_text(encoding="utf-8"))
        difference = _difference(found, _to_json(job))
        if difference is None:
            for unfinished in job.work.glob("*/*.tmp"):
                shutil.rmtree(unfinished)
            return
        if not overwrite:
            raise ValueError(
                f"store: {job.store} is the unfinished one of another command ({difference}); "
                "finish that one, name another folder, or start afresh with --overwrite"
            )
    for path in job.store.iterdir():
        if path == job.work:
            for inner in path.iterdir():
                if inner.name != "lock":
                    _delete(inner)
        else:
            _delete(path)
    write_atomically(job.work / JOB_NAME, json.dumps(_to_json(job)))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """In what two jobs differ, in words, or None."""
    if found == wanted:
        return None
    before, now = found["settings"]["command"], wanted["settings"]["command"]
    if before != now:
        return f"it was `{before}`"
    if found["tokenizer_fingerprint"] != wanted["tokenizer_fingerprint"]:
        return "the tokenizer has changed since it began"
    if found["inputs"] != wanted["inputs"]:
        return f"the input {_changed_input(found['inputs'], wanted['inputs'])} has changed since it began"
    return "another version of this program began it, or the benchmarks have changed"


def _changed_input(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    before = {entry[0]: entry for entries in found.values() for entry in entries}
    now = {entry[0]: entry for entries in wanted.values() for entry in entries}
    return str(next(item for item in {**now, **before} if before.get(item) != now.get(item)))


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the store's lock, which ends with the process. ValueError: no place for a store, or one in use."""
    if store.exists() and not store.is_dir():
        raise ValueError(f"store: {store} is a file; name a new folder")
    work = store / WORK_NAME
    if store.exists() and any(store.iterdir()) and not work.is_dir() and not is_store(store):
        raise ValueError(f"store: {store} holds files that are no token store's; name a new or empty folder")
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(file_locked(work / "lock", wait=False))
        except BlockingIOError as error:
            raise ValueError(
                f"store: another process is preparing {store}; wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            if is_store(store):
                shutil.rmtree(work)
