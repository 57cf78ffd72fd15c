"""The command line: `modernbert COMMAND ...`. Each command imports what it needs, so that `--help` starts at once."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

_EXAMPLES = """
examples:
  modernbert train yamls/quickstart.yaml
  modernbert train yamls/pretrain/modernbert-base.yaml --dry-run
  composer -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml phases.pretrain.learning_rate=5e-4
  modernbert sweep yamls/ablations/mlp.yaml --parallel 2
  modernbert report runs/quickstart
  modernbert plan runs/quickstart/recipe.yaml --step 100
  modernbert evaluate runs/quickstart
  modernbert export runs/quickstart exported/quickstart --fill "The capital of France is [MASK]."
  modernbert import path/to/ModernBERT-base imported/base
  modernbert average runs/base/checkpoints/step-000001*.pt averaged/base
  modernbert doctor yamls/pretrain/modernbert-base.yaml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns the exit status: 0 done, 1 failed a check of its own, 2 the user can mend it, 138 was asked to end and has
    saved (start it again).
    """
    options = _parse(arguments)
    # Before torch is imported: threads that wait by spinning make a small model many times slower as soon as another
    # program wants the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("composer", "streaming", "botocore", "azure", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # The libraries below us announce their own deprecations on every start; ours are errors in the tests.
    warnings.filterwarnings("ignore")
    try:
        return options.run(options)
    except ValueError as error:
        if not _is_ours(error):
            raise  # a defect, ours or a library's: whoever mends it needs the traceback
        return _failed(error, status=2)
    except FloatingPointError as error:  # the loss is no number any more
        return _failed(error, status=1)
    except KeyboardInterrupt:
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command. Overrides may also stand behind an option, where argparse by itself finds none."""
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if left and (not hasattr(options, "overrides") or any(text.startswith("-") for text in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.overrides += left
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modernbert",
        description="Pretrain ModernBERT-style encoders from YAML recipes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = _command(
        commands,
        "train",
        _train,
        "carry out a recipe; the same command again goes on where it stopped",
        """
        modernbert train yamls/quickstart.yaml training.device=cpu seed=18
        modernbert train yamls/pretrain/modernbert-large.yaml --dry-run
        modernbert train yamls/pretrain/modernbert-large.yaml init.from=runs/base init.method=tile_middle
        composer -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
        """,
    )
    train.add_argument("recipe", help="a YAML file")
    train.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe, e.g. seed=18"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and check it; train nothing"
    )

    sweep = _command(
        commands,
        "sweep",
        _sweep,
        "run a recipe under many settings and seeds, and compare; the same command again goes on",
        """
        modernbert sweep yamls/ablations/mlp.yaml --dry-run
        modernbert sweep yamls/ablations/mlp.yaml phases.pretrain.tokens=500K --parallel 2
        modernbert sweep yamls/ablations/mlp.yaml --launch "sbatch --gres=gpu:1 --wrap={quoted_command}"
        modernbert sweep yamls/ablations/mlp.yaml --list
        modernbert sweep yamls/ablations/mlp.yaml --report
        """,
    )
    sweep.add_argument("sweep", help="a YAML file; yamls/ablations has examples")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, set in every cell")
    sweep.add_argument("--folder", help="where the runs and results go (default: the sweep's, sweeps/NAME)")
    sweep.add_argument("--parallel", type=int, default=1, metavar="N", help="so many runs at a time")
    sweep.add_argument(
        "--launch",
        metavar="TEMPLATE",
        help="a shell command that starts a run; {command}, {quoted_command} (as one word), {arguments} (what comes "
        "after `modernbert`) and {name} are filled in",
    )
    instead = sweep.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="show the cells and check them; run nothing")
    instead.add_argument("--list", action="store_true", help="print the command of every run, one a line")
    instead.add_argument("--report", action="store_true", help="write tables and picture of what is finished")

    plan = _command(
        commands,
        "plan",
        _plan,
        "show which documents are in the batch of a step",
        """
        modernbert plan yamls/quickstart.yaml --step 100
        modernbert plan runs/base/recipe.yaml --step 1200 --text | less
        modernbert plan runs/base/recipe.yaml --step 1200 --json > step-1200.json
        """,
    )
    plan.add_argument("recipe", help="a YAML file: yours, or recipe.yaml of the run folder")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="those that the run was started with")
    plan.add_argument(
        "--step",
        type=int,
        required=True,
        metavar="N",
        help="counted from 1, as in the logs and metrics.jsonl",
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    plan.add_argument("--text", action="store_true", help="with the text of each piece; reads the shards")
    plan.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that count the rows before the step, where no checkpoint is near (default: %(default)s)",
    )

    report = _command(
        commands,
        "report",
        _report,
        "draw loss, learning rate and context of a run",
        "modernbert report runs/quickstart",
    )
    report.add_argument("run_folder")

    evaluate = _command(
        commands,
        "evaluate",
        _evaluate,
        "held-out masked-LM loss and accuracy of every source, beside the unigram baseline",
        """
        modernbert evaluate runs/quickstart
        modernbert evaluate exported/quickstart --recipe yamls/quickstart.yaml
        """,
    )
    evaluate.add_argument("model", help="a run folder, a checkpoint, or an exported folder")
    evaluate.add_argument("--recipe", help="names the data (default: the recipe of the run)")

    export = _command(
        commands,
        "export",
        _export,
        "write a Hugging Face folder, and prove that it gives the same logits",
        """
        modernbert export runs/quickstart exported/quickstart
        modernbert export runs/quickstart/checkpoints/step-00000120.pt exported/step-120 --fill "Paris is [MASK]."
        """,
    )
    export.add_argument("checkpoint", help="a run folder (its newest checkpoint) or a checkpoint")
    export.add_argument("out", help="the folder to write; must not exist, or be empty")
    export.add_argument(
        "--fill", action="append", default=[], metavar="TEXT", help="show what it puts for [MASK]"
    )

    importing = _command(
        commands,
        "import",
        _import,
        "make a checkpoint to start from (init.from) of a Hugging Face ModernBERT or BERT folder",
        "modernbert import path/to/ModernBERT-base imported/base",
    )
    importing.add_argument("folder", help="with config.json, weights and tokenizer")
    importing.add_argument("out", help="the folder to write; must not exist, or be empty")
    _add_average(commands)

    doctor = _command(
        commands,
        "doctor",
        _doctor,
        "check whether this machine can train, and say what to do where it cannot",
        """
        modernbert doctor
        modernbert doctor yamls/pretrain/modernbert-base.yaml run_folder=/checkpoints/base
        srun --ntasks-per-node=1 modernbert doctor --json
        """,
    )
    doctor.add_argument(
        "recipe", nargs="?", help="a YAML file: its stores and the room it needs are checked as well"
    )
    doctor.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _add_average(commands) -> None:  # type: ignore[no-untyped-def]
    average = _command(
        commands,
        "average",
        _average,
        "make one checkpoint of several, to evaluate, export or start from",
        """
        modernbert average runs/base/checkpoints/step-000001*.pt averaged/base
        modernbert average runs/a runs/b averaged/ab --weights 3,1
        modernbert average runs/english runs/all merged/decay --ties runs/base/checkpoints/step-00120000.pt
        modernbert average runs/base averaged/ema --ema
        """,
    )
    average.add_argument("checkpoints", nargs="+", help="run folders, checkpoints or Hugging Face folders")
    average.add_argument("out", help="the folder to write; must not exist, or be empty")
    how = average.add_mutually_exclusive_group()
    how.add_argument(
        "--weights", metavar="W,W,...", help="one number for each checkpoint (default: all alike)"
    )
    how.add_argument(
        "--ties", metavar="BASE", help="TIES merging: what they agree to have changed since BASE"
    )
    how.add_argument(
        "--ema",
        action="store_true",
        help="take the moving averages they hold (training.ema_half_life_tokens)",
    )
    average.add_argument(
        "--density", type=float, help="with --ties: the share of the changes that is kept (default: 0.2)"
    )


def _command(commands, name: str, run, help: str, examples: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    command = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _train(options: argparse.Namespace) -> int:
    from modernbert_train.config import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    if options.dry_run:
        from modernbert_train.training.preview import preview

        print(preview(recipe))
        return 0
    from modernbert_train.training.build import train
    from modernbert_train.training.preemption import REQUEUE_EXIT_CODE, Preempted

    try:
        train(recipe)
    except Preempted as stopped:
        logging.getLogger(__name__).warning("%s", stopped)
        return REQUEUE_EXIT_CODE
    except RuntimeError as error:
        if "by peer" not in str(error):  # how gloo says that a connection was closed at its other end
            raise
        lost = "another rank has ended, and this one with it; what ended that one stands in its own log"
        return _failed(RuntimeError(lost), status=1)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from modernbert_train.sweep import command

    which = options.sweep, options.overrides, options.folder
    if options.dry_run:
        print(command.preview_sweep(*which))
    elif options.list:
        print(command.list_commands(*which))
    elif options.report:
        print(command.report_sweep(*which))
    else:
        return command.run_sweep(*which, options.parallel, options.launch)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from modernbert_train.config import load_recipe
    from modernbert_train.training.step_contents import step_contents, to_json, to_text

    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}: make it at least 1")
    recipe = load_recipe(options.recipe, options.overrides)
    found = step_contents(recipe, options.step, options.workers, options.text)
    try:
        print(to_json(found) if options.json else to_text(found), flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _report(options: argparse.Namespace) -> int:
    from modernbert_train.evaluation.report import write_report

    print(write_report(options.run_folder))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from modernbert_train.evaluation.masked_lm import evaluate

    print(evaluate(options.model, options.recipe))
    return 0


def _export(options: argparse.Namespace) -> int:
    from modernbert_train.hub import FailedCheck, export_checkpoint

    try:
        print(f"exported: {export_checkpoint(options.checkpoint, options.out, fill=options.fill)}")
    except FailedCheck as error:
        return _failed(error, status=1)  # nothing was left behind
    return 0


def _import(options: argparse.Namespace) -> int:
    from modernbert_train.hub import FailedCheck, import_folder

    try:
        print(f"imported: {import_folder(options.folder, options.out)}")
    except FailedCheck as error:
        return _failed(error, status=1)  # nothing was left behind
    return 0


def _average(options: argparse.Namespace) -> int:
    from modernbert_train.hub import average_checkpoints, ties_checkpoints

    if options.density is not None and options.ties is None:
        raise ValueError("--density goes with --ties; name the checkpoint that all the others started from")
    if options.ties is not None:
        density = 0.2 if options.density is None else options.density
        out = ties_checkpoints(options.checkpoints, options.ties, options.out, density)
    else:
        weights = None if options.weights is None else _numbers(options.weights)
        out = average_checkpoints(options.checkpoints, options.out, weights, options.ema)
    print(f"averaged: {out}")
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        problem = f"--weights is {text!r}: write one number for each checkpoint, with commas, such as 3,1"
    raise ValueError(problem)


def _doctor(options: argparse.Namespace) -> int:
    from modernbert_train.config import load_recipe
    from modernbert_train.doctor import as_json, as_text, examine

    recipe = None if options.recipe is None else load_recipe(options.recipe, options.overrides)
    findings = examine(recipe)
    print(as_json(findings) if options.json else as_text(findings))
    return 1 if any(finding.level == "problem" for finding in findings) else 0


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by this package, whose ValueErrors speak to users."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def _failed(error: Exception, status: int) -> int:
    """Say what is wrong; every rank does, for the launcher ends the others as soon as one of them has ended."""
    rank = int(os.environ.get("RANK", "0"))
    for line in str(error).splitlines() or [repr(error)]:
        print(f"rank {rank}: error: {line}" if rank else f"error: {line}", file=sys.stderr, flush=True)
    return status
