"""Runs the stages of a preparation on a Slurm cluster with datatrove's executor.

Each stage is a job array that waits for the previous stage; the last job merges. Tasks read their job from the store,
so the store must be on a file system that all machines share. datatrove writes the sbatch scripts, requeues preempted
tasks, and keeps the logs (next to the store, in STORE.slurm).
"""

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data_prep.tokenize.job import Job, load_job
from data_prep.tokenize.merging import merge
from data_prep.tokenize.stages import run_task, stages_of
from data_prep.tokenize.work_folder import store_locked

MERGE = "merge"
ARRAY_JOBS = 1_000  # Slurm's default limit of an array; with more tasks, a job runs several
REQUIRED = ("partition", "time")


class StageStep(PipelineStep):
    """A stage as a datatrove step: the rank is the number of the task."""

    type = "modernbert-train"

    def __init__(self, store: Path, name: str) -> None:
        super().__init__()
        self.store = store
        self.name = name

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        job = load_job(self.store)
        if self.name == MERGE:
            with store_locked(self.store):
                merge(job)
            return
        stage = next(stage for stage in stages_of(job) if stage.name == self.name)
        run_task(job, stage, rank, lambda num_documents, num_tokens: None)


def submit(job: Job, options: dict[str, str], workers: int | None) -> str:
    """Submit the unfinished stages of a job.

    Args:
        job: whose store is on a shared file system.
        options: of sbatch, by name; "partition" and "time" are required.
        workers: maximum number of concurrent tasks, None for no limit.

    Returns:
        The id of the last job, which merges.
    """
    store = job.store.resolve()
    last = None
    for name, num_tasks in [*((s.name, len(s.task_bytes)) for s in stages_of(job)), (MERGE, 1)]:
        last = SlurmPipelineExecutor(
            pipeline=[StageStep(store, name)],
            tasks=num_tasks,
            tasks_per_job=math.ceil(num_tasks / ARRAY_JOBS),
            workers=workers or -1,
            job_name=f"{name}-{store.name}",
            partition=options["partition"],
            time=options["time"],
            qos=None,
            env_command=_environment(),
            sbatch_args={key: value for key, value in options.items() if key not in REQUIRED},
            logging_dir=str(store.with_name(f"{store.name}.slurm") / name),
            skip_completed=False,  # finished tasks are found in the store; datatrove's logs outlive --overwrite
            depends=last,
        )
    assert last is not None
    last.run()
    return str(last.job_id)


def check_options(options: dict[str, str]) -> None:
    """Check that the required options are given and that sbatch is installed.

    Raises:
        ValueError: An option or sbatch is missing.
    """
    missing = [name for name in REQUIRED if name not in options]
    if missing:
        raise ValueError(
            f"slurm: {missing[0]} is required; add --slurm {missing[0]}=..., such as "
            "--slurm partition=cpu time=24:00:00 mem-per-cpu=4G"
        )
    if shutil.which("sbatch") is None:
        raise ValueError("slurm: sbatch is not installed on this machine; run the command on a login node")


def _environment() -> str:
    """Return the shell command that makes this Python and its packages available to a job."""
    path = shlex.quote(os.path.join(sys.prefix, "bin"))
    return f"export PATH={path}:$PATH PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}"
