"""Prints the sources of a store, the lengths of its documents, decoded samples and damaged shards."""

from pathlib import Path

import numpy as np

from data_prep.inspect.histogram import draw_histograms, length_histogram, print_histogram
from data_prep.report import left_out_words, print_table, print_warnings
from data_prep.sources import check_known_sources
from data_prep.tokenize.encoding import load_tokenizer
from modernbert_train.store.external import read_document
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.lost_text import describe_text
from modernbert_train.store.manifest import Manifest, Split
from modernbert_train.store.mds import read_block, read_shards
from modernbert_train.store.verification import shard_header_problem

CONTEXTS_TOKENS = (1_024, 8_192)  # contexts of the recipes; longer documents are cut into pieces
SAMPLE_TOKENS = 80


def inspect_store(manifest: Manifest, source: str | None, num_samples: int, picture: Path) -> list[str]:
    """Print a summary of a store and draw the lengths of its documents.

    Args:
        manifest: of the store.
        source: to show; None for all.
        num_samples: number of documents to decode per source.
        picture: PNG to write.

    Returns:
        A line for every shard whose size or header is wrong.

    Raises:
        ValueError: The store has no such source, or the picture cannot be written.
    """
    if source is not None:
        check_known_sources([source], manifest.sources, "source")
    chosen = {name: splits for name, splits in manifest.sources.items() if source in (None, name)}
    _print_sources(manifest, chosen)
    histograms = {name: length_histogram(splits.values()) for name, splits in chosen.items()}
    for name, histogram in histograms.items():
        print_histogram(name, histogram)
    try:
        draw_histograms(histograms, CONTEXTS_TOKENS, str(manifest.path), picture)
    except OSError as error:
        raise ValueError(
            f"picture: {picture} cannot be written ({error}); name another file with --picture"
        ) from error
    print(f"\npicture: {picture}")
    _print_samples(manifest, chosen, num_samples)
    return [
        problem for splits in chosen.values() for split in splits.values() for problem in _problems(split)
    ]


def _print_sources(manifest: Manifest, chosen: dict[str, dict[str, Split]]) -> None:
    splits = {f"{name}/{s}": split for name, by_name in chosen.items() for s, split in by_name.items()}
    num_tokens = sum(split.num_tokens for split in splits.values())
    header = ["split", "documents", "tokens", "p5", "p50", "p95", "max"]
    header += [*(f"documents > {tokens:,}" for tokens in CONTEXTS_TOKENS), "share of tokens"]
    print_table(
        header,
        [
            (
                name,
                split.num_documents,
                split.num_tokens,
                *_length_cells(split),
                f"{split.num_tokens / num_tokens:.1%}",
            )
            for name, split in splits.items()
        ],
    )
    print(f"tokenizer {manifest.tokenizer_fingerprint[:16]}..., {manifest.vocab_size:,} embedding rows")
    print(f"command: {manifest.command}")
    for name in chosen:
        licence = manifest.licences.get(name, "not stated")
        print(f"{name}: licence {licence}; left out {left_out_words(manifest.left_out[name])}")
        print(f"{name}: text: {describe_text(manifest.texts[name])}")
    for name, split in splits.items():
        if split.sample_layout is not None:
            specials = ", ".join(f"[{special.upper()}]" for special in split.sample_layout.strip) or "nothing"
            print(f"{name}: one document per sample, in {split.remote}; not content: {specials}")
    print_warnings(manifest, chosen)


def _length_cells(split: Split) -> list[str | int | float]:
    lengths = split.lengths()
    percentiles = [int(value) for value in np.percentile(lengths, (5, 50, 95, 100))]
    longer = [f"{(lengths > tokens).mean():.1%}" for tokens in CONTEXTS_TOKENS]
    return [*percentiles, *longer]


def _print_samples(manifest: Manifest, chosen: dict[str, dict[str, Split]], num_samples: int) -> None:
    tokenizer = load_tokenizer(manifest.path / "tokenizer.json")
    for name, splits in chosen.items():
        for number in _spread(splits["train"].num_documents, num_samples):
            head = f"\n--- {name}/train, document {number:,}"
            try:
                ids = document_ids(splits["train"], number)
            except (ValueError, OSError) as error:
                print(f"{head}: cannot be read ({error})")
                continue
            text = tokenizer.decode(ids[:SAMPLE_TOKENS].tolist(), skip_special_tokens=False)
            print(f"{head}, {len(ids):,} tokens\n{text}{' ...' if len(ids) > SAMPLE_TOKENS else ''}")


def _spread(num_documents: int, num_samples: int) -> list[int]:
    num_samples = min(num_samples, num_documents)
    return [(i * num_documents) // num_samples for i in range(num_samples)]


def document_ids(split: Split, number: int) -> np.ndarray:
    """Read the ids of a document, which must be readable."""
    at = int(np.searchsorted(split.first_of_shards[:, 1], number, side="right")) - 1
    first_block, first_document = split.first_of_shards[at].tolist()
    shard = read_shards(split.path)[at]
    length = int(split.lengths(number, 1)[0])
    if split.sample_layout is not None:
        files = ShardFiles(split.remote or str(split.path))
        return read_document(files, shard, split.sample_layout, number - first_document, length)
    ends = first_document + np.cumsum(split.blocks(first_block, int(split.shards[at, 0]))[:, 0])
    block = int(np.searchsorted(ends, number, side="right"))
    before = int(ends[block - 1]) if block else first_document
    start = int(split.lengths(before, number - before).sum(dtype=np.int64))
    ids = read_block(split.path / shard.raw.basename, block, shard.ids_dtype)
    return ids[start : start + length]


def _problems(split: Split) -> list[str]:
    """Describe what is wrong with shards on this machine, by their sizes and headers."""
    files = ShardFiles(split.remote or str(split.path))
    if files.folder is None:
        print(f"\nshards in {files.root} are not checked here; `verify` reads them all")
        return []
    found = {shard.raw.basename: shard_header_problem(files, shard) for shard in read_shards(split.path)}
    return [f"{files.root}/{name}: {problem}" for name, problem in found.items() if problem]
