"""The command line of `python -m data_prep`: commands, options and one-line errors."""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeAlias

from data_prep import commands
from modernbert_train.common.arguments import EXAMPLES, ArgumentParser
from modernbert_train.common.redaction import print_exception, redact
from modernbert_train.store.lost_text import MAX_LOST_TEXT, WARN_LOST_TEXT

DEFAULT_VOCAB_SIZE = 50_368  # ModernBERT's
DEFAULT_CORPUS_MEGABYTES = 6.0

# argparse has no public names for these types
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Group: TypeAlias = "argparse._ArgumentGroup"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 success, 1 `verify` or `inspect` found damage, 2 an error (one line on stderr), 130 Ctrl-C.
    """
    sys.excepthook = print_exception
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # --help, or invalid arguments
        return int(stop.code or 0)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            "error: a worker process was killed (out of memory?); finished parts are kept: rerun with fewer --workers",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: rerun the same command to resume", file=sys.stderr)
        return 130


def build_parser() -> ArgumentParser:
    """Build the parser of all commands; `options.run` is the function of the chosen command."""
    parser = ArgumentParser(
        prog="python -m data_prep",
        description="Prepare data for training: documents -> tokens -> MDS shards and a manifest.",
        epilog="""examples:
  python -m data_prep corpus /tmp/corpus
  python -m data_prep tokenizer /tmp/tokenizer --input '/tmp/corpus/*.gz' --vocab-size 8192
  python -m data_prep tokenize /tmp/store --tokenizer /tmp/tokenizer --input prose=/tmp/corpus/prose.jsonl.gz
  python -m data_prep inspect /tmp/store
  python -m data_prep verify /tmp/store
  python -m data_prep index /data/mds --tokenizer /data/tokenizer --out /data/mds-index

Every command has its own --help.""",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND")
    _add_corpus(subparsers)
    _add_tokenizer(subparsers)
    _add_tokenize(subparsers)
    _add_index(subparsers)
    _add_verify(subparsers)
    _add_inspect(subparsers)
    return parser


def _add_corpus(subparsers: Commands) -> None:
    parser = _add_command(
        subparsers,
        "corpus",
        commands.run_corpus,
        "Collect prose, code and science from the Python installation, without a download.",
        "python -m data_prep corpus /tmp/corpus --megabytes 6",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for {prose,code,science}.jsonl.gz")
    add(
        "--megabytes",
        type=float,
        default=DEFAULT_CORPUS_MEGABYTES,
        metavar="N",
        help=f"maximum text per source (default: {DEFAULT_CORPUS_MEGABYTES:g})",
    )


def _add_tokenizer(subparsers: Commands) -> None:
    parser = _add_command(
        subparsers,
        "tokenizer",
        commands.run_tokenizer,
        "Train a byte-level BPE tokenizer with ModernBERT's special tokens, or add them to an existing tokenizer.",
        "python -m data_prep tokenizer /tmp/tokenizer --input '/tmp/corpus/*.gz' --vocab-size 8192",
        "python -m data_prep tokenizer /tmp/tokenizer --fit /data/olmo/tokenizer.json",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for tokenizer.json and tokenizer_config.json")
    add("--input", nargs="+", default=[], metavar="GLOB", help="files to train on, as for `tokenize`")
    add(
        "--vocab-size",
        type=int,
        default=DEFAULT_VOCAB_SIZE,
        metavar="N",
        help=f"number of ids, including special tokens (default: {DEFAULT_VOCAB_SIZE:,})",
    )
    _add_reading(parser, by_source=False)
    add(
        "--fit",
        type=Path,
        metavar="PATH",
        help="tokenizer.json to extend: its ids are kept, missing special tokens are added after them, and the "
        "vocabulary is padded to a multiple of 64",
    )
    add("--overwrite", action="store_true", help="replace an existing tokenizer in OUT")


def _add_tokenize(subparsers: Commands) -> None:
    parser = _add_command(
        subparsers,
        "tokenize",
        commands.run_tokenize,
        "Tokenize documents into a store: MDS shards, the lengths of all documents, and a manifest. Rerun the same "
        "command after an interruption: finished parts are kept.",
        "python -m data_prep tokenize /data/store --tokenizer /data/tokenizer --workers 16 \\\n"
        "      --input web='/data/web/*.jsonl.zst' code=/data/python.parquet,/data/rust.parquet",
        "python -m data_prep tokenize /data/wiki --tokenizer /data/tokenizer \\\n"
        "      --input wiki=hf:wikimedia/wikipedia:20231101.en:train --licence wiki='CC BY-SA 4.0'",
        "python -m data_prep tokenize /data/clean --tokenizer /data/tokenizer --dedup --where 'web:score>=3' \\\n"
        "      --input web=/data/web.csv books=/data/books --text-field web=content",
        "python -m data_prep tokenize /shared/store --tokenizer /shared/tokenizer \\\n"
        "      --input web='/shared/*.parquet' --executor slurm --slurm partition=cpu time=24:00:00 mem-per-cpu=4G",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder to create")
    _add_documents(parser.add_argument_group("documents"))
    _add_filters(parser.add_argument_group("filters"))
    _add_contents(parser.add_argument_group("contents of the store"))
    _add_execution(parser.add_argument_group("execution"))


def _add_documents(group: Group) -> None:
    add = group.add_argument
    add("--tokenizer", required=True, metavar="PATH", help="folder with tokenizer.json")
    add(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="SOURCE=GLOB[,GLOB]",
        help="documents of a source: .jsonl, .ndjson, .json, .csv, .tsv or .txt (plain, .gz, .bz2, .xz, .zst), "
        ".parquet, a folder of files of one of these formats or one written by datasets.save_to_disk, or "
        "hf:NAME[@REVISION][:CONFIG][:SPLIT]; '\\,' is a comma in a name",
    )
    _add_reading(group, by_source=True)


def _add_reading(group: "argparse.ArgumentParser | Group", *, by_source: bool) -> None:
    """Add the options that say how inputs are read, with values for single sources if `by_source`."""

    def add(option: str, metavar: str, text: str) -> None:
        if by_source:
            group.add_argument(
                option, nargs="+", action="extend", default=[], metavar=f"[SOURCE=]{metavar}", help=text
            )
        else:
            group.add_argument(option, metavar=metavar, help=text)

    add(
        "--text-field",
        "NAME",
        "field that holds the text; doc.text is the field text of the object doc (default: text)",
    )
    add(
        "--documents",
        "HOW",
        "what one document of a .txt file is: file, line, blank-line (up to a blank line), or any other text, which "
        r"separates documents, such as '\n---\n' (default: file)",
    )
    add("--encoding", "NAME", "encoding of files without a byte order mark, such as latin-1 (default: utf-8)")
    add("--delimiter", "CHARACTER", "what separates the columns of .csv and .tsv (default: , and a tab)")
    group.add_argument(
        "--on-bad-row",
        choices=("skip", "stop"),
        help="skip: count, report and leave out malformed rows and unreadable files; stop: stop also at null and "
        "empty texts (default: leave out null and empty texts, stop at anything malformed)",
    )


def _add_filters(group: Group) -> None:
    add = group.add_argument
    add(
        "--where",
        action="append",
        default=[],
        metavar="[SOURCE:]FIELD=VALUE",
        help="keep only documents that meet a condition, with = != >= <= > or <; if repeated, all conditions must "
        "hold",
    )
    add(
        "--dedup",
        action="store_true",
        help="keep only the first of identical texts, across all sources (reads the inputs twice)",
    )
    add("--near-dedup", action="store_true", help="keep only one of nearly identical texts (MinHash)")
    add(
        "--decontaminate",
        nargs="+",
        action="extend",
        default=[],
        metavar="GLOB",
        help="leave out texts that share --ngram-words consecutive words with the field `text` of these files",
    )
    add("--ngram-words", type=int, default=13, metavar="N", help="for --decontaminate (default: 13)")


def _add_contents(group: Group) -> None:
    add = group.add_argument
    add(
        "--valid-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="fraction of documents held out for validation, chosen by a hash of their text (default: 0.01)",
    )
    add(
        "--max-lost-text",
        type=float,
        default=MAX_LOST_TEXT,
        metavar="F",
        help="stop if the tokenizer loses more than this share of the text of a source, as [UNK] or as characters that "
        f"decoding does not give back (default: {MAX_LOST_TEXT:g}); above {WARN_LOST_TEXT:g} it warns",
    )
    add("--licence", action="append", default=[], metavar="SOURCE=TEXT", help="note for the manifest")
    add("--shard-megabytes", type=int, default=64, metavar="N", help="maximum size of a shard (default: 64)")


def _add_execution(group: Group) -> None:
    add = group.add_argument
    add(
        "--workers",
        type=int,
        metavar="N",
        help="number of processes (default: one per core); with slurm, maximum number of concurrent tasks (default: "
        "no limit)",
    )
    add(
        "--executor", choices=("local", "slurm"), default="local", help="where the work runs (default: local)"
    )
    add(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="OPTION=VALUE",
        help="options of sbatch; partition and time are required",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace a finished store, or an unfinished one of another command",
    )


def _add_index(subparsers: Commands) -> None:
    parser = _add_command(
        subparsers,
        "index",
        commands.run_index,
        "Make an external MDS store (one document per sample) usable for training. Its shards stay where they are.",
        "python -m data_prep index /data/mds --tokenizer /data/tokenizer --out /data/mds-index",
        "python -m data_prep index hf://datasets/jhu-clsp/ettin-decay-data --tokenizer /data/modernbert \\\n"
        "      --out /data/ettin-decay",
    )
    add = parser.add_argument
    add(
        "store",
        metavar="STORE",
        help="folder or URL (hf://, s3://, ...) that holds index.json, or train/ with one",
    )
    add("--tokenizer", required=True, metavar="PATH", help="tokenizer that the store was made with")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the manifest (default: STORE, if it is a folder)",
    )
    add(
        "--source",
        metavar="NAME",
        help="treat the whole store as one source of this name (default: every folder is a source)",
    )
    add("--column", default="input_ids", metavar="NAME", help="column of the token ids (default: input_ids)")
    add("--dtype", metavar="DTYPE", help="dtype of the ids, such as uint16, if the column holds bytes")
    add(
        "--strip",
        metavar="LIST",
        help="special tokens that the documents contain and that are not content: cls, sep, pad, separated by commas, "
        "or none (default: detected from a sample of documents)",
    )
    add("--licence", action="append", default=[], metavar="SOURCE=TEXT", help="note for the manifest")
    add("--skip-unreadable", action="store_true", help="leave out shards that cannot be read")
    add(
        "--workers",
        type=int,
        default=8,
        metavar="N",
        help="number of shards read at once, each into memory (default: 8)",
    )
    add("--overwrite", action="store_true", help="replace a finished index")


def _add_verify(subparsers: Commands) -> None:
    parser = _add_command(
        subparsers,
        "verify",
        commands.run_verify,
        "Read a whole store and report what is damaged or missing (exit code 1).",
        "python -m data_prep verify /data/store",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of a store or an index")


def _add_inspect(subparsers: Commands) -> None:
    parser = _add_command(
        subparsers,
        "inspect",
        commands.run_inspect,
        "Show the sources of a store, the lengths of its documents (also as a picture) and decoded samples. Shards "
        "whose size or header is wrong are reported (exit code 1); `verify` reads every byte.",
        "python -m data_prep inspect /data/store --source code --documents 5",
    )
    add = parser.add_argument
    add("store", type=Path, metavar="STORE", help="folder of a store or an index")
    add("--source", metavar="NAME", help="show only this source")
    add("--documents", type=int, default=2, metavar="N", help="number of samples per source (default: 2)")
    add("--picture", type=Path, metavar="FILE", help="histogram of the lengths (default: STORE/lengths.png)")


def _add_command(
    subparsers: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command with its function, summary and examples."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="\n".join((EXAMPLES, *(f"  {example}" for example in examples))),
    )
    parser.set_defaults(run=run)
    return parser
