"""Small token stores for tests, written from ids, without text."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from modernbert_train.store.manifest import (
    Manifest,
    TokenizerInfo,
    load_manifest,
    load_tokenizer_info,
    write_manifest,
)
from modernbert_train.store.mds import ShardFormat, write_shards
from modernbert_train.store.split import Split, write_sidecars
from modernbert_train.store.tokenizer import copy_tokenizer

Documents = Sequence[Sequence[int]]


def make_tokenizer(folder: Path, num_words: int = 251) -> TokenizerInfo:
    """Save a tokenizer of five special tokens and the words w5, w6, ...: `num_words` + 5 ids."""
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    words = specials + [f"w{number}" for number in range(len(specials), len(specials) + num_words)]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(specials)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer_info(folder)


def random_documents(count: int, seed: int, median: int = 60, longest: int = 2_000) -> list[list[int]]:
    """Return documents of lognormal length with ids from 5 to 255."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(np.log(median), 1.0, count), 1, longest).astype(int)
    return [random.integers(5, 256, length).tolist() for length in lengths]


def make_store(
    folder: Path,
    tokenizer: TokenizerInfo,
    sources: Mapping[str, Mapping[str, Documents]],
    *,
    block_documents: int = 8,
    shard_bytes: int = 1 << 26,
) -> Manifest:
    """Write a store with these documents (source -> split -> documents), in this order."""
    splits = {
        source: {
            split: _write_split(folder / source / split, documents, block_documents, shard_bytes)
            for split, documents in splits_of_source.items()
        }
        for source, splits_of_source in sources.items()
    }
    empties: dict[str, dict[str, int]] = {source: {} for source in splits}
    write_manifest(folder, tokenizer, splits, licences={}, left_out=empties, command="test")
    return load_manifest(folder)


def _write_split(folder: Path, documents: Documents, block_documents: int, shard_bytes: int) -> Split:
    blocks = [
        documents[first : first + block_documents] for first in range(0, len(documents), block_documents)
    ]
    columns = {"input_ids": "ndarray:uint16", "lengths": "ndarray:uint32"}
    with MDSWriter(
        out=str(folder), columns=columns, hashes=["sha1"], size_limit=shard_bytes, progress_bar=False
    ) as writer:
        for block in blocks:
            ids = np.concatenate([np.array(document, dtype=np.uint16) for document in block])
            writer.write({"input_ids": ids, "lengths": np.array([len(d) for d in block], dtype=np.uint32)})
    lengths = np.array([len(document) for document in documents], dtype=np.uint32)
    table = np.array([[len(block), sum(map(len, block))] for block in blocks], dtype=np.int64)
    return write_sidecars(folder, lengths, table, np.array([shard["samples"] for shard in writer.shards]))


def edit_manifest(store: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a manifest as its author could: without a hash of its own."""
    content = json.loads((store / "manifest.json").read_text())
    content.pop("sha256", None)
    edit(content)
    (store / "manifest.json").write_text(json.dumps(content))


def restate_files(store: Path) -> None:
    """Write the sizes and hashes of indices and sidecars into the manifest, as the author of the store could."""

    def edit(content: dict[str, Any]) -> None:
        for source, body in content["sources"].items():
            for split, entry in body["splits"].items():
                for name, stated in entry["files"].items():
                    data = (store / source / split / name).read_bytes()
                    stated.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(store, edit)


def make_plan_store(
    folder: Path, tokenizer: TokenizerInfo, lengths: Mapping[str, Mapping[str, Sequence[int]]]
) -> Manifest:
    """Write a store without shards, which is enough for a plan.

    Args:
        folder: Folder to create.
        tokenizer: Its tokenizer.
        lengths: Source -> split -> content tokens of each document.

    Returns:
        The manifest.
    """
    folder.mkdir(parents=True)
    splits: dict[str, dict[str, Split]] = {}
    for source, splits_of_source in lengths.items():
        splits[source] = {}
        for name, documents in splits_of_source.items():
            split_folder = folder / source / name
            split_folder.mkdir(parents=True)
            of_documents = np.array(documents, dtype=np.uint32)
            starts = np.arange(0, len(of_documents), 128)
            counts = np.diff(np.append(starts, len(of_documents)))
            blocks = np.column_stack([counts, np.add.reduceat(of_documents.astype(np.int64), starts)])
            shards = np.diff(np.append(np.arange(0, len(blocks), 64), len(blocks)))
            split = splits[source][name] = write_sidecars(split_folder, of_documents, blocks, shards)
            of_blocks = ShardFormat("uint16", 1 << 26)
            write_shards(
                split_folder,
                [
                    of_blocks.shard(number, num_blocks, 2 * num_tokens, sha1="0" * 40)
                    for number, (num_blocks, _, num_tokens) in enumerate(split.shards.tolist())
                ],
            )
    write_manifest(
        folder, tokenizer, splits, licences={}, left_out={source: {} for source in splits}, command="test"
    )
    copy_tokenizer(tokenizer.path, folder)
    return load_manifest(folder)
