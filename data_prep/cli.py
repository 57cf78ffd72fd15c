"""The command line of `python -m data_prep`: commands, options, and errors in one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeAlias

from data_prep import commands

DEFAULT_VOCAB_SIZE = 50_368  # ModernBERT's
DEFAULT_CORPUS_MEGABYTES = 6.0

# A type without a public name
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Exit codes: 0 done, 1 `verify` or `inspect` found damage, 2 an error (one line on stderr), 130 stopped by Ctrl-C.
    """
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # --help, or an argument that argparse refuses
        return int(stop.code or 0)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            "error: a worker process was killed (out of memory?); what is finished stays, lower --workers",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The options of all commands; `run` is the function of the command that was named."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Documents -> tokens -> MDS shards and a manifest. Every command has its own --help.",
    )

    def print_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=print_help)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    _add_corpus(subparsers)
    _add_tokenizer(subparsers)
    _add_tokenize(subparsers)
    _add_index(subparsers)
    _add_verify(subparsers)
    _add_inspect(subparsers)
    return parser


def _add_corpus(subparsers: Commands) -> None:
    parser = subparsers.add_parser(
        "corpus",
        **_texts(
            "Collect prose, code and science from what this Python installation holds: no download.",
            "python -m data_prep corpus /tmp/corpus --megabytes 6",
        ),
    )
    parser.set_defaults(run=commands.run_corpus)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for {prose,code,science}.jsonl.gz")
    size_help = f"most text of a source (default: {DEFAULT_CORPUS_MEGABYTES:g})"
    parser.add_argument(
        "--megabytes", type=float, default=DEFAULT_CORPUS_MEGABYTES, metavar="N", help=size_help
    )


def _add_tokenizer(subparsers: Commands) -> None:
    parser = subparsers.add_parser(
        "tokenizer",
        **_texts(
            "Train a byte-level BPE tokenizer with ModernBERT's special tokens, or add these to an existing one.",
            "python -m data_prep tokenizer /tmp/tokenizer --input '/tmp/corpus/*.gz' --vocab-size 8192",
            "python -m data_prep tokenizer /tmp/tokenizer --fit /data/olmo/tokenizer.json",
        ),
    )
    parser.set_defaults(run=commands.run_tokenizer)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the tokenizer's two files")
    parser.add_argument("--input", nargs="+", default=[], metavar="GLOB", help="files, as for tokenize")
    size_help = f"ids, special tokens included (default: {DEFAULT_VOCAB_SIZE:,})"
    parser.add_argument("--vocab-size", type=int, default=DEFAULT_VOCAB_SIZE, metavar="N", help=size_help)
    parser.add_argument("--text-field", default="text", metavar="NAME", help="of the text (default: text)")
    fit_help = "a tokenizer.json whose ids stay, with what is missing after them, padded to a multiple of 64"
    parser.add_argument("--fit", type=Path, metavar="PATH", help=fit_help)


def _add_tokenize(subparsers: Commands) -> None:
    parser = subparsers.add_parser(
        "tokenize",
        **_texts(
            "Tokenize documents into a store: MDS shards, the lengths of all documents, and a manifest. Cut off, the "
            "same command goes on with what is not done.",
            "python -m data_prep tokenize /data/store --tokenizer /data/tokenizer --workers 16 \\\n"
            "      --input web='/data/web/*.jsonl.zst' code=/data/python.parquet,/data/rust.parquet",
            "python -m data_prep tokenize /data/wiki --tokenizer /data/tokenizer \\\n"
            "      --input wiki=hf:wikimedia/wikipedia:20231101.en:train --licence wiki='CC BY-SA 4.0'",
            "python -m data_prep tokenize /data/clean --tokenizer /data/tokenizer --dedup --where 'web:score>=3' \\\n"
            "      --input web=/data/web.csv books=/data/books --text-field web=content",
            "python -m data_prep tokenize /shared/store --tokenizer /shared/tokenizer \\\n"
            "      --input web='/shared/*.parquet' --executor slurm --slurm partition=cpu time=24:00:00 mem-per-cpu=4G",
        ),
    )
    parser.set_defaults(run=commands.run_tokenize)
    parser.add_argument("store", type=Path, metavar="STORE", help="new folder")
    parser.add_argument("--tokenizer", required=True, metavar="PATH", help="folder with tokenizer.json")
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="SOURCE=GLOB[,GLOB]",
        help="documents of a source: .jsonl and .csv (plain, .gz, .zst), .parquet, .txt (a file is a document), a "
        "folder of .txt or one that datasets.save_to_disk wrote, or hf:NAME[@REVISION][:CONFIG][:SPLIT]",
    )
    parser.add_argument(
        "--text-field",
        action="append",
        default=[],
        metavar="[SOURCE=]NAME",
        help="of the text (default: text)",
    )
    where_help = "documents to keep: = != >= <= > < a column's value; repeated: all must hold"
    parser.add_argument(
        "--where", action="append", default=[], metavar="[SOURCE:]FIELD=VALUE", help=where_help
    )
    parser.add_argument(
        "--dedup",
        action="store_true",
        help="leave out texts that came before, in any source (reads inputs twice)",
    )
    parser.add_argument(
        "--near-dedup",
        action="store_true",
        help="leave out all but one of texts that are nearly the same (MinHash)",
    )
    parser.add_argument(
        "--decontaminate", nargs="+", action="extend", default=[], metavar="GLOB",
        help="leave out texts that share --ngram-words words in a row with the field `text` of these files",
    )  # fmt: skip
    parser.add_argument("--ngram-words", type=int, default=13, metavar="N", help="see above (default: 13)")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out, name and count what cannot be read"
    )
    fraction_help = "share of documents held out, chosen by a hash of their text (default: 0.01)"
    parser.add_argument("--valid-fraction", type=float, default=0.01, metavar="F", help=fraction_help)
    parser.add_argument("--licence", action="append", default=[], metavar="SOURCE=TEXT", help="a note")
    parser.add_argument(
        "--shard-megabytes", type=int, default=64, metavar="N", help="of a shard (default: 64)"
    )
    workers_help = "processes (default: one a core); with slurm most tasks at once (default: no limit)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)
    parser.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="who does the work (default: local)"
    )
    parser.add_argument(
        "--slurm", nargs="+", action="extend", default=[], metavar="OPTION=VALUE",
        help="options of sbatch; partition and time are needed",
    )  # fmt: skip
    overwrite_help = "replace a finished store, or an unfinished one of another command"
    parser.add_argument("--overwrite", action="store_true", help=overwrite_help)


def _add_index(subparsers: Commands) -> None:
    parser = subparsers.add_parser(
        "index",
        **_texts(
            "Make an MDS store that somebody else wrote (one document a sample) fit for training, where it lies.",
            "python -m data_prep index /data/mds --tokenizer /data/tokenizer --out /data/mds-index",
            "python -m data_prep index hf://datasets/jhu-clsp/ettin-decay-data --tokenizer /data/modernbert \\\n"
            "      --out /data/ettin-decay",
        ),
    )
    parser.set_defaults(run=commands.run_index)
    parser.add_argument(
        "store",
        metavar="STORE",
        help="folder or URL (hf://, s3://, ...) with index.json, or with train/ in it",
    )
    parser.add_argument(
        "--tokenizer", required=True, metavar="PATH", help="the one that the store was made with"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the manifest (default: STORE, a folder)"
    )
    parser.add_argument(
        "--source", metavar="NAME", help="of all that is in the store (default: every folder is a source)"
    )
    parser.add_argument(
        "--column", default="input_ids", metavar="NAME", help="of the ids (default: input_ids)"
    )
    parser.add_argument("--dtype", metavar="DTYPE", help="of the ids in a column of bytes, such as uint16")
    parser.add_argument(
        "--strip",
        metavar="LIST",
        help="what the documents hold besides content: cls, sep, pad, joined by commas, or none "
        "(default: as some documents show)",
    )
    parser.add_argument("--licence", action="append", default=[], metavar="SOURCE=TEXT", help="a note")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out shards that cannot be read")
    workers_help = "shards read at once, each in memory (default: 8)"
    parser.add_argument("--workers", type=int, default=8, metavar="N", help=workers_help)
    parser.add_argument("--overwrite", action="store_true", help="replace a finished index")


def _add_verify(subparsers: Commands) -> None:
    parser = subparsers.add_parser(
        "verify",
        **_texts(
            "Read a whole store and name what is damaged or missing; exit code 1 if anything is.",
            "python -m data_prep verify /data/store",
        ),
    )
    parser.set_defaults(run=commands.run_verify)
    parser.add_argument("store", type=Path, metavar="STORE")


def _add_inspect(subparsers: Commands) -> None:
    parser = subparsers.add_parser(
        "inspect",
        **_texts(
            "Show what a store holds: sources, lengths of documents (as a picture, too), decoded samples, and shards "
            "that are damaged by their sizes and headers (exit code 1); `verify` reads every byte.",
            "python -m data_prep inspect /data/store --source code --documents 5",
        ),
    )
    parser.set_defaults(run=commands.run_inspect)
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--source", metavar="S", help="this source alone")
    parser.add_argument("--documents", type=int, default=2, metavar="K", help="samples a source (default: 2)")
    picture_help = "of the lengths (default: lengths.png in STORE)"
    parser.add_argument("--picture", type=Path, metavar="FILE", help=picture_help)


def _texts(summary: str, *examples: str) -> dict[str, Any]:
    """Help of a command: its line in the list, its description, its examples."""
    epilog = "\n".join(("examples:", *(f"  {example}" for example in examples)))
    formatter = argparse.RawDescriptionHelpFormatter
    return {"help": summary, "description": summary, "epilog": epilog, "formatter_class": formatter}
