"""The options of every command, and its help."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeAlias

from modernbert_train.cli import commands

# A type without a public name.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; `run` is its function. SystemExit: they are none, or were asked for help.

    Overrides may also stand behind an option, where argparse by itself finds none.
    """
    parser = build_parser()
    options, left = parser.parse_known_args(arguments)
    if left and (not hasattr(options, "overrides") or any(text.startswith("-") for text in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.overrides += left
    return options


def build_parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    parser = argparse.ArgumentParser(
        prog="modernbert",
        description="Pretrain ModernBERT-style encoders from YAML recipes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(subparsers)
    _add_sweep(subparsers)
    _add_plan(subparsers)
    _add_report(subparsers)
    _add_evaluate(subparsers)
    _add_export(subparsers)
    _add_import(subparsers)
    _add_average(subparsers)
    _add_doctor(subparsers)
    return parser


def _add_train(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "train",
        commands.run_train,
        "carry out a recipe; the same command again goes on where it stopped",
        """
        modernbert train yamls/quickstart.yaml training.device=cpu seed=18
        modernbert train yamls/pretrain/modernbert-large.yaml --dry-run
        modernbert train yamls/pretrain/modernbert-large.yaml init.from=runs/base init.method=tile_middle
        composer -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
        """,
    )
    command.add_argument("recipe", help="a YAML file")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe, e.g. seed=18"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and check it; train nothing"
    )
    command.add_argument(
        "--tokens-per-second",
        type=_positive,
        metavar="N",
        help="with --dry-run: the speed of one GPU, for its GPU-hours (default: 30%% of an H100's peak)",
    )


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text}: choose a number above 0")
    return number


def _add_sweep(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "sweep",
        commands.run_sweep,
        "run a recipe under many settings and seeds, and compare; the same command again goes on",
        """
        modernbert sweep yamls/ablations/mlp.yaml --dry-run
        modernbert sweep yamls/ablations/mlp.yaml phases.pretrain.tokens=500K --parallel 2
        modernbert sweep yamls/ablations/mlp.yaml --launch "sbatch --gres=gpu:1 --wrap={quoted_command}"
        modernbert sweep yamls/ablations/mlp.yaml --list
        modernbert sweep yamls/ablations/mlp.yaml --report
        """,
    )
    command.add_argument("sweep", help="a YAML file; yamls/ablations has examples")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, set in every cell")
    command.add_argument("--folder", help="where the runs and results go (default: the sweep's, sweeps/NAME)")
    command.add_argument("--parallel", type=int, default=1, metavar="N", help="so many runs at a time")
    command.add_argument(
        "--launch",
        metavar="TEMPLATE",
        help="a shell command that starts a run; {command}, {quoted_command} (as one word), {arguments} (what comes "
        "after `modernbert`) and {name} are filled in",
    )
    instead = command.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="show the cells and check them; run nothing")
    instead.add_argument("--list", action="store_true", help="print the command of every run, one a line")
    instead.add_argument("--report", action="store_true", help="write tables and picture of what is finished")


def _add_plan(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "plan",
        commands.run_plan,
        "show which documents are in the batch of a step",
        """
        modernbert plan yamls/quickstart.yaml --step 100
        modernbert plan runs/base/recipe.yaml --step 1200 --text | less
        modernbert plan runs/base/recipe.yaml --step 1200 --json > step-1200.json
        """,
    )
    command.add_argument("recipe", help="a YAML file: yours, or recipe.yaml of the run folder")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="those that the run was started with"
    )
    command.add_argument(
        "--step",
        type=int,
        required=True,
        metavar="N",
        help="counted from 1, as in the logs and metrics.jsonl",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    command.add_argument("--text", action="store_true", help="with the text of each piece; reads the shards")
    command.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that count the rows before the step, where no checkpoint is near (default: %(default)s)",
    )


def _add_report(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "report",
        commands.run_report,
        "draw loss, learning rate and context of a run",
        "modernbert report runs/quickstart",
    )
    command.add_argument("run_folder")


def _add_evaluate(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "evaluate",
        commands.run_evaluate,
        "held-out masked-LM loss and accuracy of every source, beside the unigram baseline",
        """
        modernbert evaluate runs/quickstart
        modernbert evaluate exported/quickstart --recipe yamls/quickstart.yaml
        """,
    )
    command.add_argument("model", help="a run folder, a checkpoint, or an exported folder")
    command.add_argument("--recipe", help="names the data (default: the recipe of the run)")


def _add_export(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "export",
        commands.run_export,
        "write a Hugging Face folder, and prove that it gives the same logits",
        """
        modernbert export runs/quickstart exported/quickstart
        modernbert export runs/quickstart/checkpoints/step-00000120.pt exported/step-120 --fill "Paris is [MASK]."
        """,
    )
    command.add_argument("checkpoint", help="a run folder (its newest checkpoint) or a checkpoint")
    command.add_argument("out", help="the folder to write; must not exist, or be empty")
    command.add_argument(
        "--fill", action="append", default=[], metavar="TEXT", help="show what it puts for [MASK]"
    )


def _add_import(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "import",
        commands.run_import,
        "make a checkpoint to start from (init.from) of a Hugging Face ModernBERT or BERT folder",
        "modernbert import path/to/ModernBERT-base imported/base",
    )
    command.add_argument("folder", help="with config.json, weights and tokenizer")
    command.add_argument("out", help="the folder to write; must not exist, or be empty")


def _add_average(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "average",
        commands.run_average,
        "make one checkpoint of several, to evaluate, export or start from",
        """
        modernbert average runs/base/checkpoints/step-000001*.pt averaged/base
        modernbert average runs/a runs/b averaged/ab --weights 3,1
        modernbert average runs/english runs/all merged/decay --ties runs/base/checkpoints/step-00120000.pt
        modernbert average runs/base averaged/ema --ema
        """,
    )
    command.add_argument("checkpoints", nargs="+", help="run folders, checkpoints or Hugging Face folders")
    command.add_argument("out", help="the folder to write; must not exist, or be empty")
    how = command.add_mutually_exclusive_group()
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
    command.add_argument(
        "--density", type=float, help="with --ties: the share of the changes that is kept (default: 0.2)"
    )


def _add_doctor(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "doctor",
        commands.run_doctor,
        "check whether this machine can train, and say what to do where it cannot",
        """
        modernbert doctor
        modernbert doctor yamls/pretrain/modernbert-base.yaml run_folder=/checkpoints/base
        srun --ntasks-per-node=1 modernbert doctor --json
        """,
    )
    command.add_argument(
        "recipe", nargs="?", help="a YAML file: its stores and the room it needs are checked as well"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    command.add_argument("--json", action="store_true", help="print the findings as JSON")


def _command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], help: str, examples: str
) -> argparse.ArgumentParser:
    command = subparsers.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command
