"""The description of a preparation: everything that affects the bytes of the store."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.inputs.conditions import Condition
from data_prep.inputs.parts import Input, Part
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Span

WORK_NAME = ".work"
JOB_NAME = "job.json"


@dataclass(frozen=True)
class Settings:
    """The options of a preparation, without its inputs."""

    readings: dict[str, Reading]  # source -> how to read it
    licences: dict[str, str]
    valid_fraction: float
    shard_bytes: int
    on_bad_row: str | None  # skip or stop; None skips null and empty texts and stops at what is malformed
    dedup: bool
    near_dedup: bool
    ngram_words: int  # length of the word n-grams that no document may share with a benchmark
    max_lost_text: float  # largest share of lost text of a source; does not affect the bytes of the store
    command: str  # recorded in the manifest


@dataclass(frozen=True)
class Job:
    """A preparation: where the store is, and everything that affects its bytes."""

    store: Path
    settings: Settings
    tokenizer_fingerprint: str
    dtype: str  # of the token ids
    inputs: dict[str, list[Input]]
    benchmarks: list[Input]
    parts: list[Part]
    left_out: dict[
        str, dict[str, int]
    ]  # source -> reason -> number of files in its folders that are left out

    @property
    def work(self) -> Path:
        """Folder of unfinished work."""
        return self.store / WORK_NAME

    def task_folder(self, stage: str, number: int) -> Path:
        """Return the folder of the result of a finished task."""
        return self.work / stage / f"{number:06d}"


def job_to_json(job: Job) -> dict[str, Any]:
    """Convert a job to the content of job.json."""
    content = asdict(replace(job, store=Path()))
    del content["store"]
    loaded: dict[str, Any] = json.loads(json.dumps(content))  # tuples become lists, as in a loaded file
    return loaded


def load_job(store: Path) -> Job:
    """Load the job of an unfinished store."""
    content = json.loads((store / WORK_NAME / JOB_NAME).read_text(encoding="utf-8"))
    content["inputs"] = {s: [Input(*entry) for entry in entries] for s, entries in content["inputs"].items()}
    content["benchmarks"] = [Input(*entry) for entry in content["benchmarks"]]
    content["parts"] = [
        Part(source, tuple(Span(*span) for span in spans), num_bytes)
        for source, spans, num_bytes in content["parts"]
    ]
    settings = content["settings"]
    settings["readings"] = {
        source: Reading(**entry | {"conditions": tuple(Condition(**c) for c in entry["conditions"])})
        for source, entry in settings["readings"].items()
    }
    content["settings"] = Settings(**settings)
    return Job(store=store, **content)
