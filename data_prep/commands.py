"""What every command of `python -m data_prep` does with its options; each returns its exit code.

What a command needs is imported when it runs, for some of it takes seconds.
"""

import argparse
import shlex
import time
from itertools import chain
from pathlib import Path


def run_corpus(options: argparse.Namespace) -> int:
    """Collect the quickstart's corpus."""
    from data_prep.corpus import write_corpus
    from data_prep.report import print_table

    start = time.monotonic()
    rows = write_corpus(options.out, options.megabytes)
    print_table(("source", "documents", "megabytes", "duplicates", "unreadable", "file"), rows)
    print(f"collected in {time.monotonic() - start:.1f} s")
    return 0


def run_tokenizer(options: argparse.Namespace) -> int:
    """Train a tokenizer."""
    from tqdm import tqdm

    from data_prep.readers import read_texts, resolve_inputs
    from data_prep.tokenizer import save_tokenizer, train_tokenizer
    from modernbert_train.data.manifest import load_tokenizer_info

    start = time.monotonic()
    items = resolve_inputs(options.input)
    texts = chain.from_iterable(read_texts(item, options.text_field) for item in items)
    with tqdm(texts, desc="reading", unit=" documents", unit_scale=True) as bar:
        tokenizer = train_tokenizer(bar, options.vocab_size)
        num_documents = bar.n
    save_tokenizer(tokenizer, options.out)
    info = load_tokenizer_info(options.out)
    print(f"tokenizer: {options.out}  {num_documents:,} documents in {time.monotonic() - start:.1f} s")
    print(
        f"  {info.num_ids:,} ids, {info.vocab_size:,} embedding rows, fingerprint {info.fingerprint[:16]}..."
    )
    return 0


def run_tokenize(options: argparse.Namespace) -> int:
    """Make a token store."""
    from data_prep.report import print_store
    from data_prep.store import tokenize_to_store

    start = time.monotonic()
    inputs: dict[str, list[str]] = {}
    for source, patterns in _named(options.input, "input", "GLOB[,GLOB]"):
        inputs.setdefault(source, []).extend(patterns.split(","))
    manifest = tokenize_to_store(
        options.store,
        options.tokenizer,
        inputs,
        text_field=options.text_field,
        valid_fraction=options.valid_fraction,
        licences=dict(_named(options.licence, "licence", "TEXT")),
        shard_bytes=options.shard_megabytes << 20,
        workers=options.workers,
        overwrite=options.overwrite,
        command=_command(options),
    )
    print_store(manifest, time.monotonic() - start)
    return 0


def _named(values: list[str], option: str, what: str) -> list[tuple[str, str]]:
    pairs = []
    for value in values:
        name, _, rest = value.partition("=")
        if not (name and rest):
            raise ValueError(f"{option}: {value!r} must be SOURCE={what}, such as --{option} web={what}")
        pairs.append((name, rest))
    return pairs


def _command(options: argparse.Namespace) -> str:
    """The command for the manifest, without what decides no byte of the store: its place, the workers."""
    words = ["python", "-m", "data_prep", "tokenize", "STORE", "--tokenizer", options.tokenizer]
    words += ["--input", *options.input, "--text-field", options.text_field]
    words += ["--valid-fraction", str(options.valid_fraction)]
    words += ["--shard-megabytes", str(options.shard_megabytes)]
    for licence in options.licence:
        words += ["--licence", licence]
    return shlex.join(words)


def run_index(options: argparse.Namespace) -> int:
    """Make the manifest of a store of others."""
    from data_prep.index import IndexSettings, index_store
    from data_prep.report import print_store
    from modernbert_train.data.foreign import SPECIALS

    start = time.monotonic()
    if options.out is None and "://" in options.store:
        raise ValueError(f"out: nothing can be written to {options.store}; name a folder with --out")
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
        licences=dict(_named(options.licence, "licence", "TEXT")),
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
    """Read a whole store; 1 if anything in it is damaged."""
    from modernbert_train.data.manifest import MANIFEST_NAME, load_manifest
    from modernbert_train.data.verification import verify_store

    try:
        manifest = load_manifest(options.store)
        problems = verify_store(manifest)
    except ValueError as error:
        if not (options.store / MANIFEST_NAME).is_file():
            raise  # not a store: an error, not damage
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
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Show what a store holds; 1 if a shard is damaged."""
    from data_prep.inspection import inspect_store
    from modernbert_train.data.manifest import load_manifest

    picture = options.picture or options.store / "lengths.png"
    problems = inspect_store(load_manifest(options.store), options.source, options.documents, picture)
    for problem in problems:
        print(f"damaged: {problem}")
    return 1 if problems else 0
