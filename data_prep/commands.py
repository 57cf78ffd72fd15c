"""The functions of the commands of `python -m data_prep`; each returns an exit code.

Imports are inside the functions because some take seconds.
"""

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from modernbert_train.common.redaction import check_no_secret
from modernbert_train.store.names import is_source_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from data_prep.inputs.long_text import Text
    from data_prep.inputs.reading import Reading
    from data_prep.tokenizer import HeldBackText


def run_corpus(options: argparse.Namespace) -> int:
    """Collect the corpus of the quickstart."""
    from data_prep.corpus.collect import write_corpus
    from data_prep.report import print_table

    start = time.monotonic()
    rows = write_corpus(options.out, options.megabytes)
    print_table(("source", "documents", "megabytes", "duplicates", "unreadable", "file"), rows)
    print(f"collected in {time.monotonic() - start:.1f} s")
    return 0


def run_tokenizer(options: argparse.Namespace) -> int:
    """Train a tokenizer, or extend an existing one."""
    from data_prep.tokenize.encoding import check_unseen_characters
    from data_prep.tokenizer import HeldBackText, fit_tokenizer, lost_text, save_tokenizer
    from modernbert_train.store.manifest import load_tokenizer_info

    start = time.monotonic()
    if (options.fit is None) == (not options.input):
        raise ValueError("tokenizer: use either --input (texts to train on) or --fit (a tokenizer to extend)")
    _check_unnamed(options)
    existing = options.out / "tokenizer.json"
    if existing.exists() and not options.overwrite:
        raise ValueError(
            f"{existing} exists, and a store that was made with it would not fit another one; name a new folder, or "
            "replace it with --overwrite"
        )
    held_back = HeldBackText()
    warnings: list[str] = []
    if options.fit is None:
        tokenizer, origin, warnings = _train_tokenizer(options, held_back)
        save_tokenizer(tokenizer, options.out)
    else:
        tokenizer, special_tokens = fit_tokenizer(options.fit)
        origin = f"extended from {options.fit}"
        save_tokenizer(tokenizer, options.out, special_tokens)
    info = load_tokenizer_info(options.out)
    print(f"tokenizer: {options.out}  {origin} in {time.monotonic() - start:.1f} s")
    print(
        f"  {info.num_ids:,} ids, {info.vocab_size:,} embedding rows, fingerprint {info.fingerprint[:16]}..."
    )
    if options.fit is None:
        print(f"  {held_back.measure(options.out)}")
        for likely_mistake in warnings:  # again, because the reading has taken long
            print(f"  warning: {likely_mistake}")
        return 0
    print(f"  special tokens: {' '.join(special_tokens.values())}")
    warning = check_unseen_characters(options.out / "tokenizer.json", skips=True)
    lost = None if warning else lost_text(options.out)
    if warning is not None:
        print(f"  warning: {warning}")
    elif lost is not None:
        print(f"  note: {lost}")
    return 0


def _check_unnamed(options: argparse.Namespace) -> None:
    """Check that no option is given for a source, as `tokenize` takes it."""
    from data_prep.inputs.reading import BLANK_LINE, LINE, WHOLE_FILE

    given = [("input", text) for text in options.input if not os.path.exists(text)]
    given += [
        ("documents", options.documents),
        ("encoding", options.encoding),
        ("delimiter", options.delimiter),
    ]
    for option, text in given:
        name, equals, value = (text or "").partition("=")
        # A separator may have any characters.
        if (
            equals
            and is_source_name(name)
            and (option != "documents" or value in (WHOLE_FILE, LINE, BLANK_LINE))
        ):
            raise ValueError(
                f"{option}: {text!r} is for a source {name!r}, and a tokenizer has none; write --{option} {value!r}"
            )


def _train_tokenizer(
    options: argparse.Namespace, held_back: "HeldBackText"
) -> "tuple[Tokenizer, str, list[str]]":
    from data_prep.inputs.files import resolve_inputs
    from data_prep.inputs.first_look import look_at
    from data_prep.inputs.readers import LeftOut, read_texts
    from data_prep.inputs.reading import make_reading
    from data_prep.inputs.rows import Span
    from data_prep.progress import progress_bar
    from data_prep.report import left_out_words
    from data_prep.tokenizer import train_tokenizer

    reading = make_reading(options.text_field, options.documents, options.encoding, options.delimiter)
    found = resolve_inputs(options.input)
    warnings = look_at("input", found, reading, options.on_bad_row)
    left_out = LeftOut(options.on_bad_row)
    texts = chain.from_iterable(read_texts(Span(item), reading, left_out) for item in found.items)
    with progress_bar(texts, desc="reading", unit=" documents", unit_scale=True) as bar:
        tokenizer = train_tokenizer(held_back.pass_on(_then_merges(bar)), options.vocab_size)
    for message in left_out.unreadable:
        print(f"left out: {message}", file=sys.stderr)
    if left_out.counts:
        print(f"left out {left_out_words(left_out.counts)}")
    return tokenizer, f"trained on {bar.n:,} documents", warnings


def _then_merges(bar: "Iterable[Text]") -> "Iterator[Text]":
    """Yield the texts behind a progress bar, and say what takes long after the last one."""
    yield from bar
    print("learning the merges of the vocabulary", file=sys.stderr)


def run_tokenize(options: argparse.Namespace) -> int:
    """Tokenize documents into a store."""
    from data_prep.report import print_store
    from data_prep.tokenize.encoding import check_unseen_characters
    from data_prep.tokenize.job import Settings
    from data_prep.tokenize.prepare import plan_job, prepare_store, submit_store
    from modernbert_train.store.manifest import load_tokenizer_info
    from modernbert_train.store.published_tokenizer import check_tokenizer

    start = time.monotonic()
    for option, values in {"input": options.input, "tokenizer": [options.tokenizer]}.items():
        for value in values:
            check_no_secret(option, value)  # the manifest records the command
    inputs: dict[str, list[str]] = {}
    for source, patterns in _named(options.input, "input", "SOURCE=GLOB[,GLOB]", "'web=/data/*.parquet'"):
        split = re.split(r"(?<!\\),", patterns)  # "\," is a comma in a name
        inputs.setdefault(source, []).extend(pattern.replace("\\,", ",") for pattern in split)
    settings = Settings(
        readings=_readings(options, list(inputs)),
        licences=dict(_named(options.licence, "licence", "SOURCE=TEXT", "web=CC0")),
        valid_fraction=options.valid_fraction,
        shard_bytes=options.shard_megabytes << 20,
        on_bad_row=options.on_bad_row,
        dedup=options.dedup,
        near_dedup=options.near_dedup,
        ngram_words=options.ngram_words,
        max_lost_text=options.max_lost_text,
        command=_command(options),
    )
    tokenizer = load_tokenizer_info(options.tokenizer)
    check_tokenizer(tokenizer)
    warning = check_unseen_characters(tokenizer.path / "tokenizer.json", options.on_bad_row == "skip")
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    job = plan_job(options.store, tokenizer, inputs, options.decontaminate, settings)
    if options.executor == "slurm":
        slurm = dict(_named(options.slurm, "slurm", "OPTION=VALUE", "partition=cpu"))
        last_job = submit_store(job, tokenizer, options.workers, options.overwrite, slurm)
        print(
            f"submitted: the store is finished when job {last_job}, the last one, is (logs: {job.store}.slurm)"
        )
        print(
            "`squeue` shows running jobs; if one fails, rerun the same command to submit the unfinished tasks"
        )
        return 0
    manifest = prepare_store(
        job, tokenizer, _num_cores() if options.workers is None else options.workers, options.overwrite
    )
    print_store(manifest, time.monotonic() - start)
    return 0


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _readings(options: argparse.Namespace, sources: list[str]) -> "dict[str, Reading]":
    from data_prep.inputs.conditions import parse_conditions
    from data_prep.inputs.reading import make_reading, values_by_source

    conditions = parse_conditions(options.where, sources)
    by_option = {
        option: values_by_source(getattr(options, option), sources, option.replace("_", "-"))
        for option in ("text_field", "documents", "encoding", "delimiter")
    }
    return {
        source: make_reading(
            **{option: values[source] for option, values in by_option.items()}, conditions=conditions[source]
        )
        for source in sources
    }


def _named(values: list[str], option: str, form: str, example: str) -> list[tuple[str, str]]:
    pairs = []
    for value in values:
        name, _, rest = value.partition("=")
        if not (name and rest):
            raise ValueError(f"{option}: {value!r} must be {form}, such as --{option} {example}")
        pairs.append((name, rest))
    return pairs


def _command(options: argparse.Namespace) -> str:
    """Return the command for the manifest without what does not affect the bytes of the store: path, executor."""
    words = ["python", "-m", "data_prep", "tokenize", "STORE", "--tokenizer", options.tokenizer]
    words += ["--input", *options.input]
    words += ["--valid-fraction", str(options.valid_fraction)]
    words += ["--shard-megabytes", str(options.shard_megabytes)]
    for option in ("text_field", "documents", "encoding", "delimiter", "where", "licence", "decontaminate"):
        for value in getattr(options, option):
            words += [f"--{option.replace('_', '-')}", value]
    if options.decontaminate:
        words += ["--ngram-words", str(options.ngram_words)]
    if options.on_bad_row is not None:
        words += ["--on-bad-row", options.on_bad_row]
    for option in ("dedup", "near_dedup"):
        if getattr(options, option):
            words.append(f"--{option.replace('_', '-')}")
    return shlex.join(words)


def run_index(options: argparse.Namespace) -> int:
    """Index an external MDS store."""
    from data_prep.index.build import IndexSettings, index_store
    from data_prep.report import print_store
    from modernbert_train.store.external import SPECIALS

    start = time.monotonic()
    if options.out is None and "://" in options.store:
        raise ValueError(f"out: {options.store} is a URL, which cannot be written; name a folder with --out")
    strip = None
    if options.strip is not None:
        strip = tuple(part for part in options.strip.split(",") if part != "none")
        if unknown := sorted(set(strip) - set(SPECIALS)):
            raise ValueError(f"strip: {unknown[0]!r} must be one of {', '.join(SPECIALS)}, or none")
    settings = IndexSettings(
        options.store,
        options.tokenizer,
        options.source,
        options.column,
        options.dtype,
        strip,
        options.skip_unreadable,
    )
    manifest = index_store(
        settings,
        options.out or Path(options.store),
        licences=dict(_named(options.licence, "licence", "SOURCE=TEXT", "web=CC0")),
        workers=options.workers,
        overwrite=options.overwrite,
        command=_index_command(options),
    )
    print_store(manifest, time.monotonic() - start)
    return 0


def _index_command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "data_prep", "index", options.store, "--tokenizer", options.tokenizer]
    for option in ("source", "column", "dtype", "strip"):
        if getattr(options, option) is not None:
            words += [f"--{option}", getattr(options, option)]
    return shlex.join(words + ["--skip-unreadable"] * options.skip_unreadable)


def run_verify(options: argparse.Namespace) -> int:
    """Verify a whole store; exit code 1 if anything is damaged."""
    from modernbert_train.store.manifest import MANIFEST_NAME, load_manifest
    from modernbert_train.store.mds import count_unhashed, read_shards
    from modernbert_train.store.verification import verify_store

    try:
        manifest = load_manifest(options.store, sources=())
        problems = verify_store(manifest)
    except ValueError as error:
        if not (options.store / MANIFEST_NAME).is_file():
            raise  # not a store at all, rather than a damaged one
        problems = [str(error)]
    for problem in problems:
        print(f"damaged: {problem}")
    if problems:
        return 1
    splits = [split for splits in manifest.sources.values() for split in splits.values()]
    num_shards = sum(len(split.shards) for split in splits)
    num_documents = sum(split.num_documents for split in splits)
    num_tokens = sum(split.num_tokens for split in splits)
    print(f"intact: {num_shards:,} shards, {num_documents:,} documents, {num_tokens:,} tokens")
    if num_unhashed := sum(count_unhashed(read_shards(split.path)) for split in splits):
        print(
            f"index.json has no hash of {num_unhashed:,} of these shards: changed ids in them would not be found"
        )
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Show the contents of a store; exit code 1 if a shard is damaged."""
    from data_prep.inspect.summary import inspect_store
    from modernbert_train.store.manifest import load_manifest
    from modernbert_train.store.names import to_write

    picture = options.picture or to_write(options.store, "lengths.png")
    problems = inspect_store(load_manifest(options.store), options.source, options.documents, picture)
    for problem in problems:
        print(f"damaged: {problem}")
    return 1 if problems else 0
