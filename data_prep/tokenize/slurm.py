"""Runs the stages of a preparation on a Slurm cluster, by datatrove's executor.

A stage is an array of jobs, and every job after the first stage waits for the one before; the last one merges. A
task reads what it needs from the store alone, which must lie on a disk that all machines share. datatrove is what
FineWeb and its successors were made with; it writes the sbatch scripts, sends tasks again that were preempted, and
keeps the logs (beside the store, in STORE.slurm).
"""

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data_prep.tokenize.job import Job, load_job, locked
from data_prep.tokenize.merging import merge
from data_prep.tokenize.stages import run_task, stages_of

MERGE = "merge"
ARRAY_JOBS = 1_000  # Slurm's default limit of an array; more tasks than that are done several to a job
REQUIRED = ("partition", "time")


class StageStep(PipelineStep):
    """One stage, as a datatrove step: the rank is the number of the task."""

    type = "modernbert-train"

    def __init__(self, store: Path, name: str) -> None:
        super().__init__()
        self.store = store
        self.name = name

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        job = load_job(self.store)
        if self.name == MERGE:
            with locked(self.store):
                merge(job)
            return
        stage = next(stage for stage in stages_of(job) if stage.name == self.name)
        run_task(job, stage, rank, lambda num_documents, num_tokens: None)


def submit(job: Job, options: dict[str, str], workers: int | None) -> str:
    """Submit all stages of a begun job that are not finished; the id of the last job.

    Args:
        job: in a store that all machines see.
        options: of sbatch, by name; "partition" and "time" must be there.
        workers: most tasks at once, None for as many as the cluster gives.

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
            skip_completed=False,  # the store itself says what is done; these logs outlive an --overwrite
            depends=last,
        )
    assert last is not None
    last.run()
    return str(last.job_id)


def check_options(options: dict[str, str]) -> None:
    """ValueError: an option that Slurm needs is missing, or Slurm itself."""
    missing = [name for name in REQUIRED if name not in options]
    if missing:
        raise ValueError(
            f"slurm: {missing[0]} is not given; add --slurm {missing[0]}=..., such as "
            "--slurm partition=cpu time=24:00:00 mem-per-cpu=4G"
        )
    if shutil.which("sbatch") is None:
        raise ValueError("slurm: sbatch is not on this machine; start the command where jobs are submitted")


def _environment() -> str:
    """Shell commands that give a job this Python and its packages."""
    path = shlex.quote(os.path.join(sys.prefix, "bin"))
    return f"export PATH={path}:$PATH PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}"
