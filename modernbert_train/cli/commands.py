"""The commands. Each imports what it needs, so that `--help` and a mistyped command answer at once."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modernbert_train.cli.paths import job_folder, no_recipe, recipe_of, sort_probe_arguments
from modernbert_train.common.errors import report
from modernbert_train.common.files import check_new_folder

if TYPE_CHECKING:
    from modernbert_train.config import Recipe
    from modernbert_train.evaluation.watch import WatchOptions


def run_recipe(options: argparse.Namespace) -> int:
    """Write a recipe for stores and a machine."""
    from modernbert_train.recipe.command import make_recipe

    num_gpus = 0 if options.cpu else options.gpus
    print(make_recipe(options.stores, options.hours, num_gpus, options.init, options.name), end="")
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Train a recipe, or show what would be trained."""
    recipe = _load_recipe(options)
    if options.tokens_per_second is not None and not options.dry_run:
        raise ValueError("--tokens-per-second is used by --dry-run only; add --dry-run, or leave it out")
    if options.gpus is not None and not options.dry_run:
        raise ValueError(
            "--gpus is used by --dry-run only; to train on several GPUs, start the command with a launcher: "
            f"composer -n {options.gpus} -m modernbert_train train ..."
        )
    if options.restart_from_scratch and options.dry_run:
        raise ValueError("--restart-from-scratch has no effect on --dry-run; leave one of them out")
    if options.dry_run:
        from modernbert_train.planning.dry_run import dry_run

        found = dry_run(recipe, options.tokens_per_second, options.gpus)
        print(found.text)
        if not found.problems:
            return 0
        count = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        report(f"not ready to train: {count}, listed before the plan")
        return 2
    from modernbert_train.training.callbacks.preemption import Preempted
    from modernbert_train.training.train import train

    try:
        train(recipe, options.restart_from_scratch)
    except Preempted as stopped:
        logging.getLogger(__name__).warning("%s", stopped)
        return stopped.exit_code
    return 0


def run_rewind(options: argparse.Namespace) -> int:
    """Go back to an earlier checkpoint of a run, or list them."""
    run = Path(options.run_folder)
    if not run.is_dir():
        raise ValueError(f"{run}: no such run folder")
    from modernbert_train.checkpoints.rewind import list_steps, rewind
    from modernbert_train.training.distributed.run_lock import only_run_in

    if options.step is None:
        print(list_steps(run))
        return 0
    with only_run_in(run):
        print(rewind(run, options.step))
    return 0


def run_sweep(options: argparse.Namespace) -> int:
    """Run a sweep, or show its runs, commands or results."""
    from modernbert_train.sweep import command

    which = options.sweep, options.overrides, options.folder
    if options.dry_run:
        print(command.preview_sweep(*which))
    elif options.list:
        print(command.list_commands(*which, options.launcher))
    elif options.report:
        print(command.report_sweep(*which))
    else:
        return command.run_sweep(*which, options.parallel, options.launcher)
    return 0


def run_benchmark(options: argparse.Namespace) -> int:
    """Run models on the tasks of a suite, or show jobs, commands or results."""
    from modernbert_train.benchmark import command

    models, overrides = command.find_models([*options.models, *options.overrides])
    chosen = command.BenchmarkOptions(
        suite=options.suite,
        models=models,
        overrides=overrides,
        folder=options.folder,
        seeds=options.seeds,
        random_twin=options.random_twin,
        baselines=options.baselines,
        parallel=options.parallel,
        launcher=options.launcher,
        keep_models=options.keep_models,
    )
    if options.dry_run:
        print(command.preview_benchmark(chosen))
    elif options.list:
        print(command.list_commands(chosen))
    elif options.report:
        print(command.report_benchmark(chosen))
    else:
        from modernbert_train.cli import main

        return command.run_benchmark(chosen, main if options.in_process else None)
    return 0


def run_plan(options: argparse.Namespace) -> int:
    """Show the contents of the batch of a step."""
    from modernbert_train.planning.step_contents import step_contents, to_json, to_text

    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}, must be at least 1")
    recipe = _load_recipe(options)
    found = step_contents(recipe, options.step, options.workers, options.text)
    try:
        print(to_json(found) if options.json else to_text(found), flush=True)
    except BrokenPipeError:  # closed by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Write a report of runs."""
    folders = [no_recipe(folder) for folder in options.run_folders]
    from modernbert_train.reporting.command import write_report

    print(*write_report(folders, options.out), sep="\n")
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate models, or the checkpoints of a run as they appear, on held-out text."""
    _check_watched(options, options.models)
    models = [_model(path) for path in options.models]
    from modernbert_train.evaluation.command import EvaluateOptions, evaluate, watch_evaluation

    given = EvaluateOptions(**{field.name: getattr(options, field.name) for field in fields(EvaluateOptions)})
    if options.watch is None:
        print(evaluate(models, given))
        return 0
    return _print_lines(watch_evaluation(_watched(options), given))


def run_probe(options: argparse.Namespace) -> int:
    """Probe the frozen states of models, or of the checkpoints of a run as they appear."""
    models, tasks, overrides = sort_probe_arguments(options.arguments)
    _check_watched(options, models)
    models = [_model(path) for path in models]
    from modernbert_train.evaluation.probe import DEFAULT_TASKS, probe, watch_probe

    tasks = tasks or list(DEFAULT_TASKS)
    if options.watch is None:
        print(probe(models, tasks, overrides, device=options.device, json_file=options.json))
        return 0
    if options.json is not None:
        raise ValueError("--json has no effect with --watch, which writes watch.jsonl; leave it out")
    return _print_lines(watch_probe(_watched(options), tasks, overrides, device=options.device))


def _check_watched(options: argparse.Namespace, models: list[str]) -> None:
    if options.watch is None:
        if not models:
            raise ValueError(
                "no model is named; name a run, a checkpoint or a Hugging Face folder, or --watch RUN"
            )
        for option in ("every", "watch_seconds"):
            if getattr(options, option) is not None:
                name = option.replace("_", "-")
                raise ValueError(f"--{name} has an effect only with --watch; add it, or leave --{name} out")
    elif models:
        raise ValueError(f"--watch evaluates the checkpoints of its run; leave out {', '.join(models)}")


def _watched(options: argparse.Namespace) -> WatchOptions:
    from modernbert_train.evaluation.watch import IDLE_SECONDS, WatchOptions

    seconds = IDLE_SECONDS if options.watch_seconds is None else options.watch_seconds
    return WatchOptions(Path(no_recipe(options.watch)), options.every or 0, seconds)


def _model(path: str) -> str:
    """Return the path of a model, or its name on the Hugging Face hub; a recipe is refused."""
    if Path(path).exists():
        return no_recipe(path)
    from modernbert_train.checkpoints.hub import check_hub_name

    check_hub_name(path)
    return path


def _print_lines(lines: Iterable[str]) -> int:
    for line in lines:
        print(line, flush=True)
    return 0


def _out_and_overrides(options: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """Return the folder of a job, None if it is left out, and what follows it."""
    if options.out is None:
        return None, options.overrides
    if "=" in options.out:
        return None, [options.out, *options.overrides]
    return Path(options.out), options.overrides


def run_finetune(options: argparse.Namespace) -> int:
    """Fine-tune a model on a task."""
    out, overrides = _out_and_overrides(options)
    from modernbert_train.tasks.suite import find_task

    task = find_task(options.task, overrides)
    from modernbert_train.finetuning.job import finetune, summary

    out = out or job_folder("finetuned", options.model, task.name)
    print(summary(finetune(options.model, task, out), out))
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Convert a checkpoint to a Hugging Face folder."""
    check_new_folder(options.out)
    checkpoint = no_recipe(options.checkpoint)
    from modernbert_train.convert import export_checkpoint

    export = partial(
        export_checkpoint,
        checkpoint,
        options.out,
        fill=options.fill,
        onnx=options.onnx,
        sentence_transformers=options.sentence_transformers,
    )
    return _write_checked("exported", export)


def run_retrieve(options: argparse.Namespace) -> int:
    """Train a model for retrieval, and score it."""
    out, overrides = _out_and_overrides(options)
    from modernbert_train.tasks.suite import locate

    out = out or job_folder("retrieved", options.model, locate(options.task)[1])
    check_new_folder(out)
    from modernbert_train.retrieval.job import describe, retrieve

    print(describe(retrieve(options.model, options.task, out, overrides, options.multi_vector)))
    print(f"retrieval model: {out}")
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Convert a Hugging Face folder to a checkpoint."""
    check_new_folder(options.out)
    from modernbert_train.convert import import_folder

    return _write_checked("imported", partial(import_folder, options.folder, options.out))


def run_average(options: argparse.Namespace) -> int:
    """Average or merge checkpoints."""
    if options.density is not None and options.ties is None:
        raise ValueError(
            "--density is used by --ties only; add --ties with the checkpoint that all others started from"
        )
    check_new_folder(options.out)
    checkpoints = [no_recipe(path) for path in options.checkpoints]
    from modernbert_train.convert import average_checkpoints, ties_checkpoints

    if options.ties is not None:
        density = 0.2 if options.density is None else options.density
        out = ties_checkpoints(checkpoints, options.ties, options.out, density)
    else:
        weights = None if options.weights is None else _numbers(options.weights)
        out = average_checkpoints(checkpoints, options.out, weights, options.ema)
    print(f"averaged: {out}")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Check this machine; exit code 1 if it has a problem."""
    from modernbert_train.doctor import as_json, as_text, examine

    recipe = None if options.recipe is None else _load_recipe(options)
    findings = examine(recipe)
    print(as_json(findings) if options.json else as_text(findings))
    return 1 if any(finding.level == "problem" for finding in findings) else 0


def _load_recipe(options: argparse.Namespace) -> Recipe:
    from modernbert_train.checkpoints.recipes import load_run_recipe

    path, own = recipe_of(options.recipe)
    return load_run_recipe(path, [*own, *options.overrides])


def _write_checked(done: str, write: Callable[[], Path]) -> int:
    """Write a folder that checks itself; `write` leaves nothing behind if the check fails."""
    from modernbert_train.convert import FailedCheck

    try:
        print(f"{done}: {write()}")
    except FailedCheck as error:
        report(str(error))
        return 1
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        # Not raised here, for its traceback would end in this line of float().
        pass
    raise ValueError(
        f"--weights is {text!r}, must be one number per checkpoint, separated by commas, such as 3,1"
    )
