"""The command-line options of every command, and their help."""

from __future__ import annotations

import argparse
import itertools
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeAlias

from modernbert_train.cli import commands
from modernbert_train.common.arguments import EXAMPLES, ArgumentParser

# argparse has no public name for this type.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_EXAMPLES = """
examples:
  modernbert train yamls/quickstart.yaml
  modernbert recipe my/store --hours 2 > my.yaml
  modernbert train yamls/pretrain/modernbert-base.yaml --dry-run
  composer -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml phases.pretrain.learning_rate=5e-4
  modernbert sweep yamls/ablations/mlp.yaml --parallel 2
  modernbert benchmark yamls/evaluation/glue.yaml runs/base runs/other --parallel 8
  modernbert rewind runs/quickstart --step 300
  modernbert report runs/quickstart
  modernbert plan runs/quickstart/recipe.yaml --step 100
  modernbert evaluate runs/quickstart
  modernbert finetune runs/quickstart yamls/evaluation/glue.yaml:sst2 tuned/sst2
  modernbert probe runs/quickstart sst2
  modernbert export runs/quickstart exported/quickstart --fill "The capital of France is [MASK]."
  modernbert retrieve runs/quickstart my/tasks.yaml:questions retrieved/questions
  modernbert import path/to/ModernBERT-base imported/base
  modernbert average runs/base/checkpoints/step-000001*.pt averaged/base
  modernbert doctor yamls/pretrain/modernbert-base.yaml

exit codes:
  0    success
  1    a check failed: the loss is not finite, an export does not match, the doctor found a problem, ...
  2    the command, the recipe or its data is wrong; the error message says what to change
  130  stopped by Ctrl-C; a run in training has saved a checkpoint, and the same command resumes it
  137  another rank was killed, or its machine is gone: run the same command again to resume
  138  asked to stop by SIGTERM or SIGUSR1, and saved a checkpoint: run the same command again to resume
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. Exits on bad arguments, `--help` and `--version`.

    Accepts key=value overrides after options as well, which plain argparse rejects.

    Args:
        arguments: those after `modernbert`; None: those of this process.

    Returns:
        The options; `options.run` is the command's function.
    """
    parser = build_parser()
    options, unparsed = parser.parse_known_args(arguments)
    # argparse fills a list of any length before the first option only.
    rest = next((name for name in ("overrides", "models", "arguments") if hasattr(options, name)), None)
    if unparsed and rest is None:
        parser.error(f"unexpected argument: {' '.join(unparsed)}")
    if rest is not None:
        setattr(options, rest, [*getattr(options, rest), *unparsed])
    if rest == "overrides" and (meant := _without_spaces(options.overrides)) is not None:
        parser.error(f"a field and its value are one word, without spaces around `=`: write {meant}")
    return options


def _without_spaces(overrides: Sequence[str]) -> str | None:
    """Return what is meant by the first of `seed = 1`, `seed= 1` and `seed =1`; None if there is none of them."""
    words = [*overrides, ""]
    for place, (word, following) in enumerate(itertools.pairwise(words)):
        if word.startswith("=") and place:
            return words[place - 1] + (word if word != "=" else f"={following}")
        if word.endswith("=") and following and "=" not in following:
            return word + following
    return None


class _Parser(ArgumentParser):
    """Explains fields of the recipe, or of a task, that are written as options."""

    def explain(self, word: str, following: Sequence[str]) -> str:
        """Return what is wrong with an option that there is not; see the base class."""
        if any(action.dest == "overrides" for action in self._actions):
            name, _, value = word.lstrip("-").partition("=")
            of_task = any(action.dest in ("task", "suite") for action in self._actions)
            owner = "task" if of_task else "recipe"
            if "." in name or name in _fields(of_task):
                value = value or next(iter(following), "VALUE")
                return f"fields of the {owner} are written without dashes: {name}={value}, not {word}"
            if "=" not in word and following and "=" in following[0] and not following[0].startswith("-"):
                return f"fields of the {owner} need no option: write {following[0]}, without {word}"
        return super().explain(word, following)


def _fields(of_task: bool) -> set[str]:
    from dataclasses import fields

    if of_task:
        from modernbert_train.tasks.schema import TaskConfig

        return {field.name for field in fields(TaskConfig)}
    from modernbert_train.config import Recipe

    return {field.name for field in fields(Recipe)}


def build_parser() -> ArgumentParser:
    """Build the parser of all commands; `options.run` is the function of the chosen one."""
    parser = _Parser(
        prog="modernbert",
        description="Pretrain ModernBERT-style encoders from YAML recipes.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_recipe(subparsers)
    _add_train(subparsers)
    _add_rewind(subparsers)
    _add_sweep(subparsers)
    _add_benchmark(subparsers)
    _add_report(subparsers)
    _add_plan(subparsers)
    _add_evaluate(subparsers)
    _add_finetune(subparsers)
    _add_probe(subparsers)
    _add_export(subparsers)
    _add_retrieve(subparsers)
    _add_import(subparsers)
    _add_average(subparsers)
    _add_doctor(subparsers)
    return parser


class _Version(argparse.Action):
    """Prints the version. argparse's own action would look it up at every start."""

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> None:
        from importlib.metadata import version

        print(f"modernbert {version('modernbert-train')}")
        parser.exit()


def _add_recipe(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "recipe",
        commands.run_recipe,
        "write a recipe for a token store and a machine, with a comment for each choice",
        """
        modernbert recipe my/store --hours 2 > my.yaml
        modernbert recipe my/store --hours 24 --gpus 8 > my.yaml
        modernbert recipe my/store --hours 1 --init path/to/ModernBERT-base > my.yaml
        """,
    )
    command.add_argument("stores", nargs="+", metavar="STORE", help="folder or URL of a token store")
    command.add_argument(
        "--hours",
        type=_positive,
        default=1.0,
        metavar="H",
        help="what the run may take; size and tokens follow (default: 1)",
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--gpus", type=_positive_int, metavar="N", help="GPUs to train on (default: those of this machine)"
    )
    where.add_argument("--cpu", action="store_true", help="train on this machine's CPU, although it has GPUs")
    command.add_argument(
        "--init", metavar="FOLDER", help="weights to start from: a run, a checkpoint or a Hugging Face folder"
    )
    command.add_argument(
        "--name", help="name of the run, whose folder is runs/NAME (default: the name of the first store)"
    )


def _add_train(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "train",
        commands.run_train,
        "train a recipe; run the same command again to resume",
        """
        modernbert train yamls/quickstart.yaml training.device=cpu seed=18
        modernbert train yamls/pretrain/modernbert-large.yaml --dry-run --gpus 24
        modernbert train yamls/pretrain/modernbert-large.yaml init.from=runs/base init.method=tile_middle
        composer -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
        """,
    )
    command.add_argument("recipe", help="path of the YAML recipe, or of a run folder, to resume its run")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="fields of the recipe to override, e.g. seed=18",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="check the recipe and its data and show what would be trained"
    )
    command.add_argument(
        "--restart-from-scratch",
        action="store_true",
        help="begin at the first step if the run has lost its checkpoints, instead of stopping; old records are kept",
    )
    command.add_argument(
        "--tokens-per-second",
        type=_positive,
        metavar="N",
        help="with --dry-run: speed of one GPU, to estimate GPU-hours (default: 30%% of an H100's peak)",
    )

    command.add_argument(
        "--gpus",
        type=_positive_int,
        metavar="N",
        help="with --dry-run: show what each of N GPUs does; up to data.num_streams, all train on the same batches",
    )


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not allowed: must be a number greater than 0")
    return number


def _add_rewind(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "rewind",
        commands.run_rewind,
        "go back to an earlier checkpoint of a run, from which `train` then resumes; what came after it is kept",
        """
        modernbert rewind runs/base
        modernbert rewind runs/base --step 12000
        """,
    )
    command.add_argument("run_folder", help="folder of the run, which must not be training")
    command.add_argument(
        "--step", type=int, metavar="N", help="the step of the checkpoint (default: list the checkpoints)"
    )


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: must be a whole number of at least 1")
    return int(text)


def _add_sweep(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "sweep",
        commands.run_sweep,
        "train a recipe with several settings and seeds and compare them; run again to resume",
        """
        modernbert sweep yamls/ablations/mlp.yaml --dry-run
        modernbert sweep yamls/ablations/mlp.yaml phases.pretrain.tokens=500K --parallel 2
        modernbert sweep yamls/ablations/mlp.yaml --launcher "composer -n 8"
        modernbert sweep yamls/ablations/mlp.yaml --list
        modernbert sweep yamls/ablations/mlp.yaml --report
        """,
    )
    command.add_argument("sweep", help="path of the YAML sweep; see yamls/ablations for examples")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="fields of the recipe to override in every run",
    )
    command.add_argument(
        "--folder", help="folder for the runs and results (default: that of the sweep, sweeps/NAME)"
    )
    command.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="number of runs in parallel (default: %(default)s)",
    )
    command.add_argument(
        "--launcher",
        metavar="COMMAND",
        help="command that starts each run, followed by `-m modernbert_train train ...` (default: this Python), such "
        "as 'composer -n 8' or 'srun --gres=gpu:1 python'",
    )
    instead = command.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="check the runs and show them; train nothing")
    instead.add_argument("--list", action="store_true", help="print the command of each run, one per line")
    instead.add_argument("--report", action="store_true", help="write tables and plots of the finished runs")


def _add_benchmark(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "benchmark",
        commands.run_benchmark,
        "fine-tune models on the tasks of a suite with several seeds, and compare them; run again to go on",
        """
        modernbert benchmark yamls/evaluation/glue.yaml answerdotai/ModernBERT-base --dry-run
        modernbert benchmark yamls/evaluation/glue.yaml runs/base runs/other --parallel 8
        modernbert benchmark yamls/evaluation/local.yaml runs/small folder=my/data --random-twin --baselines
        modernbert benchmark my/suite.yaml runs/a runs/b --seeds 0 1 2 3 4 epochs=2 tasks.sst2.epochs=1
        modernbert benchmark my/suite.yaml runs/a --launcher "srun --gres=gpu:1 python" --parallel 8
        """,
    )
    command.add_argument("suite", help="path of the YAML suite; see yamls/evaluation")
    command.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a run folder, a checkpoint, a Hugging Face folder or a model of the hub; the others are compared with "
        "the first. key=value among them overrides fields of all tasks, tasks.NAME.key=value those of one",
    )
    command.set_defaults(overrides=[])
    command.add_argument(
        "--folder", help="folder for jobs and results (default: evaluations/NAME of the suite)"
    )
    command.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="seeds of every task (default: those of the suite)"
    )
    command.add_argument(
        "--random-twin",
        action="store_true",
        help="also fine-tune each model's architecture from random weights, and compare with that",
    )
    command.add_argument(
        "--baselines",
        action="store_true",
        help="also majority, bag of words and TF-IDF cosine; BM25 for retrieval",
    )
    command.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="number of jobs in parallel (default: %(default)s)",
    )
    command.add_argument(
        "--launcher",
        metavar="COMMAND",
        help="command that starts each job, followed by `-m modernbert_train finetune ...` (default: this Python), "
        "such as 'srun --gres=gpu:1 python'",
    )
    command.add_argument(
        "--in-process",
        action="store_true",
        help="run the jobs one after another in this process, which saves its start for each",
    )
    command.add_argument(
        "--keep-models", action="store_true", help="keep the weights of every fine-tuned model"
    )
    instead = command.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="show the tasks and jobs, leaks, and the smallest difference that each task can show; run nothing",
    )
    instead.add_argument("--list", action="store_true", help="print the command of each job, one per line")
    instead.add_argument(
        "--report", action="store_true", help="write tables and picture of the finished jobs"
    )


def _add_plan(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "plan",
        commands.run_plan,
        "show the contents of the batch of a step: its documents, and where they are stored",
        """
        modernbert plan yamls/quickstart.yaml --step 100
        modernbert plan runs/base/recipe.yaml --step 1200 --text | less
        modernbert plan runs/base/recipe.yaml --step 1200 --json > step-1200.json
        """,
    )
    command.add_argument("recipe", help="path of the YAML recipe, or recipe.yaml of a run folder")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="overrides that the run was started with",
    )
    command.add_argument(
        "--step",
        type=int,
        required=True,
        metavar="N",
        help="the step, counted from 1 as in the logs and metrics.jsonl",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    command.add_argument(
        "--text", action="store_true", help="also print the text of each piece, which reads the shards"
    )
    command.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that pack the rows before the step if no checkpoint is near it (default: %(default)s)",
    )


def _add_report(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "report",
        commands.run_report,
        "write a report of runs as one HTML file that opens offline, beside the same in Markdown and JSON",
        """
        modernbert report runs/quickstart
        modernbert report runs/seed-17 runs/seed-18 --out seeds.html
        modernbert report runs/base evaluations/glue --out base.html
        """,
    )
    command.add_argument(
        "run_folders",
        nargs="+",
        metavar="RUN",
        help="folder of a run, or with results of `benchmark` or `finetune`; several runs are compared: their curves, "
        "scores and recipes",
    )
    command.add_argument(
        "--out",
        metavar="FILE.html",
        help="the file to write; .md, .svg and numbers.json go beside it (default: report.html in the folder of the "
        "run; of several runs, in the working directory)",
    )


def _add_evaluate(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "evaluate",
        commands.run_evaluate,
        "print held-out loss and accuracy for each source, beside a unigram baseline; of several models in one table",
        """
        modernbert evaluate runs/quickstart
        modernbert evaluate path/to/ModernBERT-base --recipe my/recipe.yaml
        modernbert evaluate runs/extended runs/twin --lengths --picture positions.png
        modernbert evaluate runs/base path/to/bert --text web='/data/web/*.jsonl.gz' --bits-per-byte
        modernbert evaluate --watch runs/base --device cuda:1 --every 1B
        """,
    )
    command.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a run folder, a checkpoint, a Hugging Face folder, or a model of the hub as OWNER/NAME",
    )
    command.add_argument(
        "--recipe", help="recipe that names the stores of text (default: that of the first run)"
    )
    command.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="files of raw text in place of stores, tokenized by each model's own tokenizer; repeatable",
    )
    command.add_argument(
        "--text-field", metavar="NAME", help="with --text: field of the text (default: text)"
    )
    command.add_argument(
        "--max-documents",
        type=_positive_int,
        metavar="N",
        help="with --text: documents of each source to read (default: 500; with --bits-per-byte 100)",
    )
    command.add_argument(
        "--max-tokens",
        type=_tokens,
        metavar="N",
        help="tokens of each source of a store, such as 2M (default: evaluation.max_rows of the recipe)",
    )
    command.add_argument(
        "--context-tokens",
        type=_tokens,
        metavar="N",
        help="length at which documents are cut (default: the shortest context of the models and the recipe; with "
        "--lengths: the longest of the models, up to 8,192)",
    )
    command.add_argument(
        "--lengths",
        action="store_true",
        help="also print the scores by position in the document and by its length; of two models with different "
        "contexts also what the first gains from the longer context beyond the second",
    )
    command.add_argument(
        "--beyond",
        type=_tokens,
        metavar="N",
        help="with --lengths and two models: compare them beyond position N (default: the shorter context)",
    )
    command.add_argument("--picture", metavar="FILE", help="with --lengths: draw the loss by position (PNG)")
    command.add_argument(
        "--bits-per-byte",
        action="store_true",
        help="with --text: score whole words in bits per byte, which compares models of different tokenizers",
    )
    _add_watch(command)


def _add_probe(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "probe",
        commands.run_probe,
        "score frozen hidden states on classification and similarity tasks, beside random weights, in about a minute",
        """
        modernbert probe runs/base sst2 stsb
        modernbert probe runs/base path/to/bert my/tasks.yaml:topics train_rows=1000
        modernbert probe --watch runs/base my/tasks.yaml:topics folder=/data --device cuda:1
        """,
    )
    command.add_argument(
        "arguments",
        nargs="*",
        metavar="MODEL | TASK | key=value",
        help="models (run folders, checkpoints, Hugging Face folders), tasks (FILE.yaml:NAME, or a name of a suite of "
        "the package; default: sst2 stsb), and fields of the tasks to override, in any order",
    )
    _add_watch(command)


def _add_watch(command: argparse.ArgumentParser) -> None:
    """Add the options that `evaluate` and `probe` have in common."""
    _add_device(command)
    command.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    command.add_argument(
        "--watch",
        metavar="RUN",
        help="evaluate the checkpoints of a run as they appear, until it has finished, and append the scores to "
        "RUN/watch.jsonl; the run is not disturbed",
    )
    command.add_argument(
        "--every",
        type=_tokens,
        metavar="N",
        help="with --watch: tokens between checkpoints to evaluate, such as 1B (default: every checkpoint)",
    )
    command.add_argument(
        "--watch-seconds",
        type=_positive,
        metavar="N",
        help="with --watch: stop after this time without a new checkpoint (default: six hours)",
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, gpu, or cuda:N for GPU number N (default: a GPU if there is one)",
    )


def _tokens(text: str) -> int:
    from modernbert_train.config.quantities import parse_tokens

    try:
        return _positive_int(str(parse_tokens(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: {error}") from None


def _add_finetune(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "finetune",
        commands.run_finetune,
        "fine-tune a model on a labelled task; a plain Hugging Face folder comes out",
        """
        modernbert finetune runs/base sst2 tuned/sst2
        modernbert finetune answerdotai/ModernBERT-base glue/mnli tuned/mnli
        modernbert finetune tuned/mnli rte tuned/rte learning_rate=3e-5 seed=42
        modernbert finetune exported/base my/tasks.yaml:intents tuned/intents epochs=5 pooling=cls
        modernbert finetune exported/base my/tasks.yaml:names tuned/twin random_twin=true
        """,
    )
    command.add_argument(
        "model",
        help="a run folder, a checkpoint, a Hugging Face folder (a fine-tuned one too) or a model of the hub",
    )
    command.add_argument(
        "task", help="FILE.yaml:NAME of a task of your own, or the name of one that ships with the package"
    )
    command.add_argument(
        "out", nargs="?", help="folder to write; must be new or empty (default: finetuned/MODEL/TASK)"
    )
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings of the task to override, e.g. epochs=2 seed=1",
    )


def _add_export(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "export",
        commands.run_export,
        "convert a checkpoint to a Hugging Face folder and check that its logits are the same",
        """
        modernbert export runs/quickstart exported/quickstart
        modernbert export runs/quickstart/checkpoints/step-00000120.pt exported/step-120 --fill "Paris is [MASK]."
        modernbert export runs/quickstart exported/embedding --sentence-transformers --onnx
        modernbert export finetuned/sst2 exported/sst2 --onnx
        """,
    )
    command.add_argument(
        "checkpoint",
        help="a run folder (its newest checkpoint), a checkpoint, or, for --onnx and --sentence-transformers, a "
        "Hugging Face folder of any architecture",
    )
    command.add_argument("out", help="folder to write; must be new or empty")
    command.add_argument(
        "--fill",
        action="append",
        default=[],
        metavar="TEXT",
        help="show predictions for [MASK] in this text; repeatable",
    )
    command.add_argument(
        "--onnx",
        action="store_true",
        help="add onnx/model.onnx, and compare it with Transformers in ONNX Runtime",
    )
    command.add_argument(
        "--sentence-transformers",
        action="store_true",
        help="add the files of Sentence Transformers and text-embeddings servers, with mean pooling; the output in "
        "onnx/model.onnx is then last_hidden_state, not logits",
    )


def _add_retrieve(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "retrieve",
        commands.run_retrieve,
        "fine-tune a model for retrieval, one vector per text or (ColBERT) per token, and score it",
        """
        modernbert retrieve runs/base codesearch retrieved/code folder=my/data
        modernbert retrieve runs/base my/tasks.yaml:questions retrieved/colbert --multi-vector
        modernbert retrieve retrieved/code scifact folder=my/data retrieval.steps=0 retrieval.baselines=true
        modernbert retrieve path/to/ModernBERT-base beir retrieved/beir seed=1
        """,
    )
    command.add_argument(
        "model", help="a run folder, a checkpoint, a Hugging Face folder or a name of the hub"
    )
    command.add_argument("task", help="FILE.yaml:NAME, or the name of a task in yamls/evaluation")
    command.add_argument(
        "out", nargs="?", help="folder to write; must be new or empty (default: retrieved/MODEL/TASK)"
    )
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="fields of the task to override, e.g. seed=1",
    )
    command.add_argument(
        "--multi-vector",
        action="store_true",
        help="a vector per token and MaxSim (ColBERT), not one per text",
    )


def _add_import(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "import",
        commands.run_import,
        "convert a Hugging Face folder of a ModernBERT, BERT or RoBERTa to a checkpoint, for use as init.from",
        """
        modernbert import path/to/ModernBERT-base imported/base
        """,
    )
    command.add_argument("folder", help="folder with config.json, weights and tokenizer")
    command.add_argument("out", help="folder to write; must be new or empty")


def _add_average(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "average",
        commands.run_average,
        "average or merge checkpoints into one, to evaluate, export or use as init.from",
        """
        modernbert average runs/base/checkpoints/step-000001*.pt averaged/base
        modernbert average runs/a runs/b averaged/ab --weights 3,1
        modernbert average runs/english runs/all merged/decay --ties runs/base/checkpoints/step-00120000.pt
        modernbert average runs/base averaged/ema --ema
        """,
    )
    command.add_argument("checkpoints", nargs="+", help="run folders, checkpoints or Hugging Face folders")
    command.add_argument("out", help="folder to write; must be new or empty")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--weights", metavar="W,W,...", help="weight of each checkpoint (default: all equal)")
    how.add_argument(
        "--ties",
        metavar="BASE",
        help="TIES merging: merge the changes since BASE on which the checkpoints agree",
    )
    how.add_argument(
        "--ema",
        action="store_true",
        help="use their EMA weights (training.ema_half_life_tokens)",
    )
    command.add_argument(
        "--density", type=float, help="with --ties: fraction of the changes to keep (default: 0.2)"
    )


def _add_doctor(subparsers: Subparsers) -> None:
    command = _command(
        subparsers,
        "doctor",
        commands.run_doctor,
        "check whether this machine can train, and what to change if it cannot",
        """
        modernbert doctor
        modernbert doctor yamls/pretrain/modernbert-base.yaml run_folder=/checkpoints/base
        srun --ntasks-per-node=1 modernbert doctor --json
        """,
    )
    command.add_argument(
        "recipe",
        nargs="?",
        help="path of a YAML recipe or a run folder, to check its stores and disk space as well",
    )
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of the recipe to override"
    )
    command.add_argument("--json", action="store_true", help="print the findings as JSON")


def _command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], help: str, examples: str
) -> argparse.ArgumentParser:
    command = subparsers.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"{EXAMPLES}\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
    )
    command.set_defaults(run=run)
    return command
