"""Mutated files of stores: what is read is what the undamaged store holds, or an error of one line ends the reading.

A mutation by damage leaves the hashes that others state as they were. One by an author has hashes that fit: then any
content may be read, but nothing else may happen.
"""

from __future__ import annotations

import copy
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.index.build import IndexSettings, index_store
from modernbert_train.data.plan import Plan
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import RetryPolicy
from modernbert_train.store.opening import open_store
from modernbert_train.store.reading import BlockReader
from tests.helpers.external import write_mds
from tests.helpers.stores import make_store, make_tokenizer, random_documents, restate_files

# No input takes longer than this, on a busy machine.
MOST_SECONDS = 60
NUM_IDS = 256
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 5, 2**31, 2**63, 10**30, 1.5, float("inf"), float("nan"), "", "x", "..", "../x",
    "a\\b", "a\0b", "\ud800", "s3://a/b", [], [0], [[]], {}, {"x": 1}, "9" * 300, "ndarray:object", "zstd", "sha1",
]  # fmt: skip
PIECES = [
    b"\0",
    b"\xff" * 4,
    b"{",
    b"[" * 3_000,
    b"9" * 5_000,
    b"Infinity",
    b'"',
    b"\x93NUMPY",
    b"(",
    b"'",
    b"\x80",
]


def mutate_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, overwrite, insert, cut or truncate."""
    kind = random.integers(6)
    at = int(random.integers(len(data) + 1))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + PIECES[random.integers(len(PIECES))] + data[at:]
    if kind == 2:
        return data[:at] + data[at + int(random.integers(1, 40)) :]
    flipped = bytearray(data)
    early = random.random() < 0.5  # headers are short
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(min(len(data), 200) if early else len(data)))
        flipped[at] ^= 1 << int(random.integers(8)) if kind < 5 else int(random.integers(1, 256))
    return bytes(flipped)


def mutate_tree(content: Any, random: np.random.Generator) -> Any:
    """Change one to three places of a JSON value."""
    content = copy.deepcopy(content)
    for _ in range(random.integers(1, 4)):
        places = list(_places(content))
        if not places:
            return content
        parent, key = places[random.integers(len(places))]
        kind = random.integers(8)
        value = copy.deepcopy(VALUES[random.integers(len(VALUES))])
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[value if isinstance(value, str) else "x"] = parent.pop(key)
        elif kind == 1:
            parent.append(copy.deepcopy(parent[key]))
        elif kind == 2 and isinstance(parent[key], int):
            parent[key] += int(random.integers(-2, 3))
        elif kind == 3:
            other, other_key = places[random.integers(len(places))]
            parent[key] = copy.deepcopy(other.get(other_key) if isinstance(other, dict) else other[:1])
        else:
            parent[key] = value
    return content


def _places(content: Any):
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in list(pairs):
        yield content, key
        yield from _places(value)


def mutate_array(data: bytes, random: np.random.Generator) -> bytes:
    """Change numbers of a .npy file."""
    values = np.frombuffer(data[128:], np.uint32 if b"<u4" in data[:128] else np.int64).copy()
    for _ in range(random.integers(1, 4)):
        extreme = [0, 1, -1, 2**31, 2**62, -(2**62), int(values.max()) + 1]
        with np.errstate(over="ignore"):
            values[random.integers(len(values))] = np.array(extreme[random.integers(len(extreme))]).astype(
                values.dtype
            )
    return data[:128] + values.tobytes()


def mutated(file: Path, random: np.random.Generator) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".json" and random.random() < 0.7:
        return json.dumps(mutate_tree(json.loads(data), random)).encode()
    if file.suffix == ".npy" and random.random() < 0.5:
        return mutate_array(data, random)
    return mutate_bytes(data, random)


class TooLongError(BaseException):
    pass


@contextmanager
def bounded():
    """End what takes longer than MOST_SECONDS."""

    def end(*_):
        raise TooLongError

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def outcome_of(read: Callable[[], Any], undamaged: Any, by_author: bool) -> str:
    try:
        with bounded():
            found = read()
    except ValueError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert message
        assert "\n" not in message
        return "error"
    if by_author:
        return "read"
    assert found == undamaged, "silent difference"
    return "equal"


def contents(store: Path, cache: Path | None = None) -> Any:
    """Read a store as training does: all its tokens, and the plan of a few rows."""
    manifest = open_store(str(store), ["web", "code"], None)
    splits = {name: splits["train"] for name, splits in manifest.sources.items() if "train" in splits}
    files = Cache(cache, None, RetryPolicy(attempts=1)) if cache else None
    with closing(BlockReader(splits.values(), files, NUM_IDS)) as reader:
        blocks = [
            (name, reader.read(split, block).tolist())
            for name, split in splits.items()
            for block in range(split.num_blocks)
        ]
        lengths = {name: split.lengths().tolist() for name, split in splits.items()}
    if not splits:
        raise ValueError("data.sources names what the store does not have")  # as `open_inputs` does
    plan = Plan(
        splits, dict.fromkeys(splits, 1 / len(splits)), num_streams=2, num_nodes=1, shuffle_rows=8,
        context_tokens=64, row_tokens=64, key=(1,),
    )  # fmt: skip
    rows = [plan.shuffle_block(0, index).piece_document.tolist() for index in range(2)]
    assert [(name, sum(lengths[name])) for name in splits] == [
        (name, split.num_tokens) for name, split in splits.items()
    ]
    return blocks, lengths, rows, manifest.tokenizer_fingerprint


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def native(tmp_path_factory, tokenizer):
    store = tmp_path_factory.mktemp("native") / "store"
    sources = {
        "web": {"train": random_documents(50, 1, 15), "valid": random_documents(8, 2, 15)},
        "code": {"train": random_documents(20, 3, 15)},
    }
    make_store(store, tokenizer, sources, shard_bytes=1_500)
    return store


def write_external(folder: Path, compression: str | None, with_id: bool, hashes: tuple[str, ...]) -> None:
    write_mds(
        folder,
        random_documents(40, 1, 15),
        compression=compression,
        with_id=with_id,
        hashes=hashes,
        shard_bytes=1_500,
    )


def index(mds: Path, out: Path, tokenizer) -> None:
    settings = IndexSettings(str(mds), str(tokenizer.path), "web", "input_ids", None, None, False)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        index_store(settings, out, licences={}, workers=1, overwrite=True, command="x")


@pytest.fixture(scope="module", params=["native", None, "zstd"], ids=["native", "external", "compressed"])
def store(request, tmp_path_factory, tokenizer, native):
    """A store of ours, or an indexed one."""
    if request.param == "native":
        return native
    folder = tmp_path_factory.mktemp("external")
    write_external(folder / "mds", request.param, with_id=True, hashes=("sha1",))
    index(folder / "mds", folder / "store", tokenizer)
    return folder / "store"


NUM_INPUTS = [90, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7_200)])]


def fuzz(files: list[Path], num_inputs: int, try_one: Callable[[np.random.Generator], str]) -> Counter[str]:
    """Mutate one or two of the files at a time; put them back afterwards."""
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    for seed in range(num_inputs):
        random = np.random.default_rng([17, seed])
        chosen = [
            files[number]
            for number in random.choice(len(files), min(len(files), 1 + seed % 2), replace=False)
        ]
        before = {file: file.read_bytes() for file in chosen}
        try:
            for file in chosen:
                file.write_bytes(mutated(file, random))
            outcomes[try_one(random)] += 1
        except BaseException as error:
            error.add_note(f"input {seed}: {[str(file) for file in chosen]}")
            raise
        finally:
            for file, data in before.items():
                file.write_bytes(data)
    print(f"{num_inputs} inputs in {time.monotonic() - started:.0f} s: {dict(outcomes)}")
    return outcomes


@pytest.mark.parametrize("num_inputs", NUM_INPUTS)
def test_manifest_index_and_sidecars(store, num_inputs):
    manifest, cache = store / "manifest.json", store.parent / "cache"
    undamaged = contents(store, cache)
    files = [manifest, *sorted(store.glob("web/train/*.npy")), *store.glob("*/train/index.json")]
    stated = manifest.read_bytes()

    def try_one(random):
        by_author = bool(random.integers(2))
        try:
            if by_author:
                restate_files(store)
            # Where damage has removed the hash of the manifest, it is one of an earlier version.
            by_author |= json.loads(manifest.read_bytes()).get("sha256") is None
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            by_author = False  # what is there cannot be restated
        try:
            return outcome_of(lambda: contents(store, cache), undamaged, by_author)
        finally:
            manifest.write_bytes(stated)

    outcomes = fuzz(files, num_inputs, try_one)
    assert outcomes["error"] > num_inputs / 2
    assert contents(store, cache) == undamaged


@pytest.mark.parametrize("num_inputs", NUM_INPUTS)
def test_shards(native, num_inputs):
    undamaged = contents(native)
    outcomes = fuzz(
        sorted(native.glob("*/train/*.mds")),
        num_inputs,
        lambda _: outcome_of(lambda: contents(native), undamaged, False),
    )
    assert outcomes["error"] > num_inputs / 2
    assert contents(native) == undamaged


@pytest.mark.parametrize("num_inputs", NUM_INPUTS)
@pytest.mark.parametrize("hashes", [("sha1",), ()], ids=["with hashes", "without"])
@pytest.mark.parametrize("compression", [None, "zstd", "gz"])
def test_external_stores_that_are_indexed(tmp_path, tokenizer, hashes, compression, num_inputs):
    """Shards and index.json as they come from others, through `data_prep index` and training."""
    with_id = compression is None
    write_external(tmp_path / "mds", compression, with_id, hashes)

    def read():
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        index(tmp_path / "mds", tmp_path / "store", tokenizer)
        return contents(tmp_path / "store", tmp_path / "cache")

    undamaged = read()
    shards = [file for file in sorted((tmp_path / "mds").iterdir()) if file.name != "index.json"]
    of_index = fuzz(
        [tmp_path / "mds/index.json"], num_inputs // 6, lambda _: outcome_of(read, undamaged, True)
    )
    of_shards = fuzz(shards, num_inputs // 6, lambda _: outcome_of(read, undamaged, not hashes))
    assert (of_index + of_shards)["error"] > num_inputs / 12
    assert not (tmp_path / "x").exists()
