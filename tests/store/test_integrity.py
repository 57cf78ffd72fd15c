"""Damage is found before a file is first used, and once only."""

import errno
import io
import json
import os
import re
import shutil
from contextlib import closing

import numpy as np
import pytest

from data_prep.cli import main
from modernbert_train.store import integrity
from modernbert_train.store.arrays import ArrayFile
from modernbert_train.store.integrity import damage_once
from modernbert_train.store.manifest import load_manifest
from modernbert_train.store.mds import decode_block, read_samples
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import Split, number_problem
from tests.helpers.stores import make_store, make_tokenizer, random_documents, restate_files

DOCUMENTS = random_documents(60, seed=1, median=20)


@pytest.fixture
def store(tmp_path):
    make_store(
        tmp_path / "store",
        make_tokenizer(tmp_path / "tokenizer"),
        {"web": {"train": DOCUMENTS}},
        shard_bytes=2_000,
    )
    return tmp_path / "store"


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A memory of the test's own, that also remembers files which were just written."""
    monkeypatch.setattr(integrity, "_memory", integrity._Memory())
    monkeypatch.setattr(integrity, "_memory_file", lambda: tmp_path / "memory/verified")
    monkeypatch.setattr(integrity, "_SETTLED_SECONDS", -1)
    return tmp_path / "memory/verified"


@pytest.fixture
def hashed(monkeypatch):
    """The files whose bytes were hashed."""
    files = []
    original = integrity.damage
    monkeypatch.setattr(
        integrity, "damage", lambda file, *stated: (files.append(file), original(file, *stated))[1]
    )
    return files


def flip(file, at=-1):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def read_all(store, num_ids=None):
    split = load_manifest(store).sources["web"]["train"]
    with closing(BlockReader([split], num_ids=num_ids)) as reader:
        return [reader.read(split, block).tolist() for block in range(split.num_blocks)]


def test_each_file_is_hashed_once_for_all_processes(store, memory, hashed, monkeypatch):
    expected = read_all(store)
    assert len(hashed) == len(set(hashed)) == 4 + len(list(store.glob("web/train/*.mds")))
    assert read_all(store) == expected
    monkeypatch.setattr(integrity, "_memory", integrity._Memory())  # another process
    for file in [store, *store.rglob("*")]:
        file.chmod(0o555 if file.is_dir() else 0o444)
    hashed.clear()
    read_all(store)
    assert len(hashed) == 4 + len(list(store.glob("web/train/*.mds")))  # another ctime
    hashed.clear()
    read_all(store)
    assert hashed == []


def test_a_file_that_is_written_again_is_hashed_again(store, memory, hashed):
    file = store / "web/train/lengths.npy"
    stated = {"sha1": integrity.new_hash("sha1").hexdigest()}
    file.write_bytes(b"")
    assert [damage_once(file, 0, stated) for _ in range(2)] == [None] * 2
    os.utime(file, (1, 1))
    assert [damage_once(file, 0, stated) for _ in range(2)] == [None] * 2
    assert hashed == [file] * 2
    assert len(memory.read_text().split()) == 2


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, memory, hashed, monkeypatch):
    monkeypatch.setattr(integrity, "_SETTLED_SECONDS", 60)
    (tmp_path / "file").write_bytes(b"x")
    stated = {"xxh64": integrity.new_hash("xxh64").hexdigest()}
    assert [damage_once(tmp_path / "file", 1, stated) for _ in range(2)] == [
        "its xxh64 differs from the recorded one"
    ] * 2
    state = integrity.new_hash("xxh64")
    state.update(b"x")
    assert [damage_once(tmp_path / "file", 1, {"xxh64": state.hexdigest()}) for _ in range(2)] == [None] * 2
    assert len(hashed) == 4
    assert not memory.exists()


def test_without_a_place_for_the_memory(store, memory, monkeypatch):
    memory.parent.write_text("a file where the folder should be")
    read_all(store)
    monkeypatch.setattr(integrity, "_memory_file", lambda: integrity.Path("~nobody-at-all").expanduser())
    monkeypatch.setattr(integrity, "_memory", integrity._Memory())
    read_all(store)


def test_changed_ids_are_found(store):
    shard = store / "web/train/shard.00001.mds"
    flip(shard, -200)
    with pytest.raises(
        ValueError,
        match=r"store: shard 1 of .*web/train cannot be read \(its sha1 differs from.*data_prep verify",
    ):
        read_all(store)


def drop_hashes(store):
    """Remove the hashes of the shards, and that of the manifest."""
    index = store / "web/train/index.json"
    content = json.loads(index.read_text())
    for shard in content["shards"]:
        shard["raw_data"]["hashes"] = {}
    index.write_text(json.dumps(content))
    restate_files(store)


def test_storage_that_fails_is_no_damage(store, monkeypatch):
    """A store that cannot be read at the moment is not to be prepared again."""
    split = load_manifest(store).sources["web"]["train"]
    with closing(BlockReader([split])) as reader:
        reader.read(split, 0)

        def fail(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(OSError, match=r"Input/output error: '.*shard\.00000\.mds'$"):
            reader.read(split, 0)


def test_a_store_without_hashes(store, capsys):
    """It is read as before; ids beyond the vocabulary are found even so, and so is another size."""
    expected = read_all(store)
    drop_hashes(store)
    (store / "tokenizer.json").write_bytes((store.parent / "tokenizer/tokenizer.json").read_bytes())
    (store / "tokenizer_config.json").write_text("{}")
    assert read_all(store) == expected
    assert main(["verify", str(store)]) == 0
    assert re.search(r"no hash of \d+ of these shards", capsys.readouterr().out)
    shard = store / "web/train/shard.00001.mds"
    ids, _ = decode_block(read_samples(shard)[0], "uint16")
    data = shard.read_bytes()
    at = data.index(ids.tobytes())
    shard.write_bytes(data[: at + 1] + b"\x77" + data[at + 2 :])
    split = load_manifest(store).sources["web"]["train"]
    block = int(split.first_of_shards[1, 0])
    with pytest.raises(
        ValueError, match=rf"shard 1 of .* at block {block} \(it has id \d+, the tokenizer has 256 ids\)"
    ):
        read_all(store, num_ids=256)
    assert main(["verify", str(store)]) == 1
    shard.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"shard 1 of .* cannot be read \([\d,]+ bytes instead of"):
        read_all(store)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HEADER = npy(np.zeros((5, 2), np.int64))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged"),
        (HEADER[:20], "is damaged"),
        (HEADER.replace(b"{'descr'", b"{'descr("), "is damaged"),
        (HEADER.replace(b"(5, 2)", b"(5, 2("), "is damaged"),
        (b"PK\x03\x04" + HEADER, "is damaged"),
        (HEADER.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"), "is damaged"),
        (HEADER.replace(b"<i8", b">i8"), "instead of int64"),
        (HEADER.replace(b"<i8", b"|O8"), "instead of int64|is damaged"),
        (HEADER.replace(b"False", b"True "), "by columns"),
        (HEADER.replace(b"(5, 2)", b"(10,) "), "instead of int64"),
        (HEADER.replace(b"(5, 2), }" + b" " * 12, b"(99999999999, 2), }  "), "its header says"),
        (HEADER[:-1], "has 207 bytes, its header says 208"),
        (HEADER + b"x", "has 209 bytes, its header says 208"),
    ],
)  # fmt: skip
def test_damaged_arrays(tmp_path, data, message):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        ArrayFile(tmp_path / "x.npy", "int64", 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_parts_of_an_array(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("modernbert_train.store.arrays._IN_MEMORY_BYTES", in_memory)
    values = np.arange(2_000, dtype=np.int64).reshape(-1, 2)
    np.save(tmp_path / "x.npy", values)
    array = ArrayFile(tmp_path / "x.npy", "int64", 2)
    for first, count in ((0, None), (0, 0), (17, 1), (990, 30), (1_000, 5), (1_200, 5)):
        expected = values[first:] if count is None else values[first : first + count]
        np.testing.assert_array_equal(array.read(first, count), expected)


def test_a_sidecar_shortened_while_in_use(store, monkeypatch):
    """A mapped file would end the process by SIGBUS."""
    monkeypatch.setattr("modernbert_train.store.arrays._IN_MEMORY_BYTES", 0)
    split = load_manifest(store).sources["web"]["train"]
    split.lengths(0, 1)
    os.truncate(store / "web/train/lengths.npy", 200)
    with pytest.raises(
        ValueError, match=r"lengths\.npy ends at byte 200: it was shortened while in use; restore it"
    ):
        split.lengths()


def test_a_store_deleted_while_in_use(store):
    split = load_manifest(store).sources["web"]["train"]
    reader = BlockReader([split])
    assert len(split.shards) > 1
    shutil.rmtree(store)
    with pytest.raises(ValueError, match=r"cannot be read \(the file does not exist\)"):
        reader.read(split, 0)
    with pytest.raises(ValueError, match=r"shards\.npy cannot be read \(No such file"):
        _ = Split(split.path, 1, 1, 1).shards


@pytest.mark.parametrize(
    ("lengths", "blocks", "shards", "message"),
    [
        ([3, 4, 5], [[2, 7], [1, 5]], [[2, 3, 12]], None),
        ([3, 4, 5], [[2, 7], [1, 5]], [[0, 0, 0], [1, 2, 7], [0, 0, 0], [1, 1, 5], [0, 0, 0]], None),
        ([3, 4, 5], [[2, 7], [1, 5]], [[2, 3, 11]], "11 tokens in shards.npy, the manifest says 12"),
        ([3, 4, 5], [[2, 7], [1, 5]], [[3, 3, 12], [-1, 0, 0]], "shards.npy is negative"),
        ([3, 4, 5], [[2, 7], [1, 5]], [[1, 1, 7], [1, 2, 5]], "not those of their blocks"),
        ([3, 4, 5], [[2, 7], [1, 5]], [[0, 0, 7], [2, 3, 5]], "not those of their blocks"),
        ([3, 4, 5], [[1, 7], [2, 5]], [[2, 3, 12]], "tokens of block 0 in blocks.npy"),
        ([3, 4, 6], [[2, 7], [1, 5]], [[2, 3, 12]], "tokens of block 1 in blocks.npy"),
        ([3, 4, 5], [[4, 12], [-1, 0]], [[2, 3, 12]], "a number of documents in blocks.npy"),
        ([3, 4, 5], [[3, 12], [1, 0]], [[2, 3, 12]], "more documents than lengths.npy"),
        ([3, 4, 5], [[2, 7], [1, 5]], [[1 << 62] * 3] * 4, "blocks in shards.npy, the manifest says 2"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1_000])
def test_numbers_that_do_not_add_up(tmp_path, monkeypatch, lengths, blocks, shards, message, chunk):
    monkeypatch.setattr("modernbert_train.store.split._CHUNK_BLOCKS", chunk)
    for name, values, dtype in (
        ("lengths", lengths, np.uint32),
        ("blocks", blocks, np.int64),
        ("shards", shards, np.int64),
    ):
        np.save(tmp_path / f"{name}.npy", np.array(values, dtype))
    problem = number_problem(Split(tmp_path, 3, 12, 2))
    assert problem is None if message is None else message in problem
