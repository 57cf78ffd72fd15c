"""`modernbert benchmark`: what its options do."""

from __future__ import annotations

import logging
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from modernbert_train.benchmark.facts import TaskFacts, read_facts, write_baselines
from modernbert_train.benchmark.jobs import (
    Benchmark,
    BenchmarkJob,
    arguments,
    as_jobs,
    check_results,
    drop_weights,
    plan_benchmark,
)
from modernbert_train.benchmark.page import preview, write_page
from modernbert_train.benchmark.results import BASELINES_FOLDER, collect_results, to_csv, to_json
from modernbert_train.checkpoints.hub import find_model
from modernbert_train.common.files import write_atomically
from modernbert_train.common.launching import (
    EndedJob,
    Failures,
    Job,
    command,
    launch,
    run_in_process,
    split_launcher,
    stopped_exit_code,
)

log = logging.getLogger(__name__)

PAGE, NUMBERS, TABLE, PICTURE = "benchmark.md", "results.json", "results.csv", "results.png"
RunCommand = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class BenchmarkOptions:
    """The options of the command."""

    suite: str
    models: list[str]
    overrides: list[str]
    folder: str | None = None
    seeds: list[int] | None = None
    random_twin: bool = False
    baselines: bool = False
    parallel: int = 1
    launcher: str | None = None
    # Keep the weights of all fine-tuned models.
    keep_models: bool = False

    def plan(self) -> Benchmark:
        """Return the benchmark, whose finished jobs have been checked."""
        seeds = [] if self.seeds is None else [f"seeds={self.seeds}"]
        benchmark = plan_benchmark(
            self.suite, self.models, [*self.overrides, *seeds], self.folder, self.random_twin
        )
        check_results(benchmark)
        return benchmark


def preview_benchmark(options: BenchmarkOptions) -> str:
    """Return what would run, with leaks and the smallest difference that each task can show (`--dry-run`)."""
    benchmark = options.plan()
    return preview(benchmark, _read_facts(benchmark))


def list_commands(options: BenchmarkOptions) -> str:
    """Return the command of every job, one per line (`--list`).

    Raises:
        ValueError: A job starts from another that is not finished.
    """
    benchmark = options.plan()
    words = split_launcher(options.launcher)
    return "\n".join(shlex.join(command(words, arguments(benchmark, job))) for job in benchmark.jobs)


def report_benchmark(options: BenchmarkOptions) -> str:
    """Write tables and picture of the finished jobs (`--report`), and return the text to print."""
    benchmark = options.plan()
    return _report(benchmark, _read_facts(benchmark))


def run_benchmark(options: BenchmarkOptions, run_here: RunCommand | None = None) -> int:
    """Run all unfinished jobs, and report.

    Args:
        options: Of the command.
        run_here: Runs a command in this process and returns its exit code; None: each in a process of its own.

    Returns:
        The exit code: 0 success, 1 a job failed, 138 stopped by SIGTERM or SIGUSR1 (run again to go on), 128 + n
        stopped by another signal n.

    Raises:
        ValueError: An option, a task, its rows or a model is wrong; nothing has been started.
    """
    if options.parallel < 1:
        raise ValueError(f"--parallel is {options.parallel}, must be at least 1")
    if run_here is not None and (options.parallel > 1 or options.launcher is not None):
        raise ValueError(
            "--in-process runs one job after another in this process; leave --parallel and --launcher out"
        )
    benchmark = options.plan()
    split_launcher(options.launcher)
    for model in benchmark.models:
        find_model(model.path)  # one of the hub is downloaded once, not by every job
    facts = _read_facts(benchmark)
    log.info("%s\n", preview(benchmark, facts))
    if options.baselines:
        _write_baselines(benchmark)
    jobs = as_jobs(benchmark)
    of_name = {job.name: job for job in benchmark.jobs}

    def is_finished(job: Job) -> bool:
        return of_name[job.name].result() is not None

    failures = Failures(jobs, is_finished)

    def on_end(ended: EndedJob) -> None:
        failures.on_end(ended)
        _tidy(of_name[ended.job.name])
        bar.update(1)

    def _tidy(job: BenchmarkJob) -> None:
        if not options.keep_models and job.result() is not None:
            drop_weights(benchmark, job)

    for job in benchmark.jobs:  # one that ended when this program was killed
        _tidy(job)
    num_finished = sum(map(is_finished, jobs))
    with (
        logging_redirect_tqdm(),
        tqdm(
            total=len(jobs), initial=num_finished, unit=" job", desc=benchmark.suite.name, disable=None
        ) as bar,
    ):
        if run_here is not None:
            stopped_by = run_in_process(jobs, run_here, is_finished, on_end)
        else:
            stopped_by = launch(
                jobs, options.parallel, options.launcher, is_finished, on_end, bar, lambda: int(bar.n)
            )
    if stopped_by:
        log.warning("stopped by %s; run the same command again to go on", signal.Signals(stopped_by).name)
        return stopped_exit_code(stopped_by)
    if any(map(is_finished, jobs)):
        print(_report(benchmark, facts))
    failures.summarize()
    return 1 if failures.failed else 0


def _read_facts(benchmark: Benchmark) -> dict[str, TaskFacts]:
    tasks = benchmark.suite.tasks.values()
    bar = tqdm(tasks, desc="rows and leaks", unit=" task", disable=None, leave=False)
    return {task.name: read_facts(benchmark.suite, task) for task in bar}


def _write_baselines(benchmark: Benchmark) -> None:
    done = benchmark.folder / BASELINES_FOLDER
    for task in tqdm(benchmark.suite.tasks.values(), desc="baselines", unit=" task", disable=None):
        if not list(done.glob(f"*/{task.name}/result.json")):
            write_baselines(benchmark.suite, task, done)


def _report(benchmark: Benchmark, facts: dict[str, TaskFacts]) -> str:
    from modernbert_train.benchmark.picture import write_picture

    results = collect_results(benchmark, facts)
    benchmark.folder.mkdir(parents=True, exist_ok=True)
    page = write_page(results)
    files = {PAGE: page, NUMBERS: to_json(results), TABLE: to_csv(results)}
    for name, text in files.items():
        write_atomically(benchmark.folder / name, text)
    write_picture(results, benchmark.folder / PICTURE)
    return page + "\n" + "\n".join(str(benchmark.folder / name) for name in (*files, PICTURE))


def find_models(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the words after the suite into models and overrides.

    Returns:
        Models, and `key=value`; a path with a `=` that exists is a model.

    Raises:
        ValueError: No word is a model.
    """
    models = [word for word in words if "=" not in word or Path(word).exists()]
    if not models:
        raise ValueError(
            "name at least one model after the suite: a run, a checkpoint or a Hugging Face folder"
        )
    return models, [word for word in words if word not in models]
