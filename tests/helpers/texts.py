"""Texts that break careless preparation, and slow, simple functions that read a store back."""

import gzip
import json
from pathlib import Path

import numpy as np
from streaming.base.format import reader_from_json

from data_prep.cli import main
from data_prep.tokenize.encoding import load_tokenizer

TRICKY_TEXTS = [
    "plain words",
    "   leading and trailing spaces   ",
    "carriage\r\nreturns\r\n",
    "line\u2028separator and paragraph\u2029separator\x85next\x0bline",
    "a [MASK] b[MASK] [CLS]x[SEP][PAD] [UNK] [mask] [CLS",
    "\ttabs\t\n\n\n  and    runs     of      spaces",
    "é ü ß 漢字 한국어 हिन्दी العربية 🤖👩‍👩‍👧 \U0001f600\ufeff",
    "\x00\x01\x7f control characters",
    "x",
    "<s></s>|||IP_ADDRESS|||",
]
TRAINING_TEXTS = [*TRICKY_TEXTS, "the cat sat on the mat, the cat sat on the hat " * 20]


def numbered_texts(count: int) -> list[str]:
    """Return distinct texts of 2 to about 40 words."""
    return [f"document {number} " + "the cat sat on the mat " * (number % 8) for number in range(count)]


def sentences(count: int, seed: int) -> list[str]:
    """Return texts of 120 words drawn from 17,576, so that no two share five consecutive words."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return [" ".join("".join(word) for word in random.choice(letters, (120, 3))) for _ in range(count)]


def write_json_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    lines = [json.dumps({"id": n, field: text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)]
    data = "".join(lines).encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def run_tokenize(
    store: Path, tokenizer: Path, *inputs: str, options: tuple[str, ...] = ("--workers", "1")
) -> int:
    return main(["tokenize", str(store), "--tokenizer", str(tokenizer), "--input", *inputs, *options])


def stored_documents(split_folder: Path) -> list[np.ndarray]:
    """Return the ids of every document of a split, read sample by sample with Streaming's reader."""
    documents = []
    for shard in json.loads((split_folder / "index.json").read_text())["shards"]:
        reader = reader_from_json(str(split_folder), None, shard)
        for index in range(len(reader)):
            sample = reader[index]
            ends = np.cumsum(sample["lengths"])
            assert ends[-1] == len(sample["input_ids"])
            documents += np.split(sample["input_ids"], ends[:-1])
    return documents


def stored_texts(store: str | Path, source: str) -> list[str]:
    """Return the decoded training documents of a source."""
    tokenizer = load_tokenizer(Path(store, "tokenizer.json"))
    documents = stored_documents(Path(store, source, "train"))
    return [tokenizer.decode(ids.tolist(), skip_special_tokens=False) for ids in documents]


def files_of(store: Path) -> dict[str, bytes]:
    """Return name -> content of every file of a store."""
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}
