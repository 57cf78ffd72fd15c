"""Runs the tasks of a stage on this machine: several processes, one progress bar, errors in one line.

Processes of the standard library and not datatrove's local executor, which waits for ever when a worker is killed
(out of memory), leaves its workers running when it is killed itself, and writes every error as a traceback.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.tokenize.job import Job, load_job
from data_prep.tokenize.stages import TOKENS, Stage, run_task, stages_of

REFRESH_S = 0.5


class Progress:
    """The bar of a stage: bytes of text of finished tasks, documents and tokens of all that ran here.

    `counts`: int64 [tasks + 1, 2] documents and tokens of every task, in memory that workers share without locks
    (a killed worker cannot hold one); the last row says "stop".
    """

    def __init__(self, stage: Stage, done: list[bool], counts: np.ndarray) -> None:
        self.stage, self.counts = stage, counts
        total = sum(stage.task_bytes)
        initial = sum(size for size, is_done in zip(stage.task_bytes, done, strict=True) if is_done)
        self.bar = tqdm(desc=stage.name, total=total, initial=initial, unit="B", unit_scale=True)
        self.started = self.shown = time.monotonic()

    def finished(self, number: int) -> None:
        """Count a task as done."""
        self.bar.update(self.stage.task_bytes[number])

    def refresh(self, every_s: float = REFRESH_S) -> None:
        """Show the counts as they are now, at most once in `every_s`."""
        now = time.monotonic()
        if now - self.shown < every_s:
            return
        self.shown = now
        documents, tokens = self.counts[:-1].sum(axis=0).tolist()
        shown = f"{documents:,} documents"
        if self.stage.name == TOKENS:
            shown += f", {tokens / (now - self.started + 1e-9):,.0f} tokens/s"
        self.bar.set_postfix_str(shown)


def run_stage(job: Job, stage: Stage, workers: int) -> None:
    """Do all tasks of a stage that are not done yet, large ones first.

    Raises what a task raised; the other tasks are stopped, what is finished stays. BrokenProcessPool: a worker
    was killed.
    """
    numbers = range(len(stage.task_bytes))
    done = [job.task_folder(stage.name, number).is_dir() for number in numbers]
    todo = sorted((n for n in numbers if not done[n]), key=lambda n: -stage.task_bytes[n])
    if not todo:
        return
    shared = multiprocessing.get_context("spawn").RawArray("q", 2 * len(done) + 2)
    counts = np.frombuffer(shared, np.int64).reshape(-1, 2)
    progress = Progress(stage, done, counts)
    with progress.bar:
        if workers == 1 or len(todo) <= 1:
            for number in todo:
                run_task(job, stage, number, _reporter(counts, number, progress.refresh))
                progress.finished(number)
        else:
            _run_in_processes(job, stage, todo, min(workers, len(todo)), shared, progress)
        progress.refresh(every_s=0)


def _reporter(
    counts: np.ndarray, number: int, after: Callable[[], None] = lambda: None
) -> Callable[[int, int], None]:
    def report(num_documents: int, num_tokens: int) -> None:
        counts[number] = num_documents, num_tokens
        if counts[-1, 0]:
            os._exit(1)  # another task failed: the run is over, and this one will be done again
        after()

    return report


def _run_in_processes(
    job: Job, stage: Stage, todo: list[int], workers: int, shared: Any, progress: Progress
) -> None:
    # spawn: a forked child would inherit the locks of the tokenizer's threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job.store, stage.name, shared))
    try:
        pending: dict[Future[None], int] = {pool.submit(_run_in_worker, number): number for number in todo}
        while pending:
            done, _ = wait(pending, REFRESH_S, FIRST_EXCEPTION)
            for future in done:
                future.result()
                progress.finished(pending.pop(future))
            progress.refresh()
    except BaseException:
        progress.counts[-1] = 1
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_task: Callable[[int], None]  # of this worker process


def _start_worker(store: Path, stage_name: str, shared: Any) -> None:
    global _task
    # Ctrl-C: the parent ends its workers, without a traceback each
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    job = load_job(store)
    stage = next(stage for stage in stages_of(job) if stage.name == stage_name)
    counts = np.frombuffer(shared, np.int64).reshape(-1, 2)
    _task = lambda number: run_task(job, stage, number, _reporter(counts, number))  # noqa: E731


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # the parent was killed: nobody will ever send or take a task


def _run_in_worker(number: int) -> None:
    _task(number)
