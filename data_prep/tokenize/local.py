"""Runs the tasks of a stage on this machine: several processes, one progress bar, one-line errors.

Uses the standard library instead of datatrove's local executor, which hangs when a worker is killed (out of memory),
leaves its workers running when it is killed itself, and prints every error as a traceback.
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

from data_prep.progress import progress_bar
from data_prep.tokenize.job import Job, load_job
from data_prep.tokenize.stages import TOKENS, Stage, run_task, stages_of

REFRESH_S = 0.5


class Progress:
    """The progress bar of a stage: bytes of text of finished tasks, documents and tokens processed in this run.

    Args:
        stage: whose tasks run.
        done: [tasks] whether a task was finished in an earlier run.
        counts: int64 [tasks + 1, 2] documents and tokens of every task, in memory that workers share without locks
            (a killed worker could never release one); a non-zero last row tells the workers to stop.
    """

    def __init__(self, stage: Stage, done: list[bool], counts: np.ndarray) -> None:
        self.stage, self.counts = stage, counts
        total = sum(stage.task_bytes)
        initial = sum(size for size, is_done in zip(stage.task_bytes, done, strict=True) if is_done)
        self.bar = progress_bar(desc=stage.name, total=total, initial=initial, unit="B", unit_scale=True)
        self.started = self.shown = time.monotonic()

    def finished(self, number: int) -> None:
        """Advance the bar by one task."""
        self.bar.update(self.stage.task_bytes[number])

    def refresh(self, *, at_once: bool = False) -> None:
        """Show the current counts, unless they were shown a moment ago and need not be shown at once."""
        now = time.monotonic()
        if now - self.shown < max(REFRESH_S, self.bar.mininterval) and not at_once:
            return
        self.shown = now
        documents, tokens = self.counts[:-1].sum(axis=0).tolist()
        shown = f"{documents:,} documents"
        if self.stage.name == TOKENS:
            shown += f", {tokens / (now - self.started + 1e-9):,.0f} tokens/s"
        self.bar.set_postfix_str(shown)


def run_stage(job: Job, stage: Stage, workers: int) -> None:
    """Run the unfinished tasks of a stage, large ones first.

    An error in a task stops the others and is raised here; finished tasks stay finished. If a worker process is
    killed, BrokenProcessPool is raised.
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
        progress.refresh(at_once=True)


def _reporter(
    counts: np.ndarray, number: int, after: Callable[[], None] = lambda: None
) -> Callable[[int, int], None]:
    def report(num_documents: int, num_tokens: int) -> None:
        counts[number] = num_documents, num_tokens
        if counts[-1, 0]:
            os._exit(1)  # another task failed; the next run repeats this one
        after()

    return report


def _run_in_processes(
    job: Job, stage: Stage, todo: list[int], workers: int, shared: Any, progress: Progress
) -> None:
    # not fork: a child would inherit locks held by the tokenizer's threads
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


_run: Callable[[int], None]  # runs a task in this worker process; set by _start_worker


def _start_worker(store: Path, stage_name: str, shared: Any) -> None:
    global _run
    # on Ctrl-C the parent ends its workers; otherwise each would print a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    job = load_job(store)
    stage = next(stage for stage in stages_of(job) if stage.name == stage_name)
    counts = np.frombuffer(shared, np.int64).reshape(-1, 2)
    _run = lambda number: run_task(job, stage, number, _reporter(counts, number))  # noqa: E731


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # the parent was killed


def _run_in_worker(number: int) -> None:
    _run(number)
