"""Remote stores, read with the real S3 client from a server that fails on demand."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from streaming import MDSWriter

from modernbert_train.store import download
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import RetryPolicy, expect
from modernbert_train.store.opening import open_store, open_tokenizer
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import write_sidecars
from tests.helpers.object_store import CONNECTIONS_ARE_LEFT, serving
from tests.helpers.stores import edit_manifest, make_store, make_tokenizer, random_documents

SHARD_BYTES = 4_000
URL = "s3://bucket/store"
PATIENT = RetryPolicy(attempts=3, silence_seconds=20)
IMPATIENT = RetryPolicy(attempts=3, silence_seconds=1)  # where the server is silent on purpose
pytestmark = CONNECTIONS_ARE_LEFT
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The folder that holds a bucket with a store of about fifty shards."""
    root = tmp_path_factory.mktemp("buckets")
    store = root / "bucket/store"
    tokenizer = make_tokenizer(root / "tokenizer")
    sources = {
        "web": {"train": random_documents(800, 1), "valid": random_documents(20, 2)},
        "code": {"train": random_documents(100, 3)},
    }
    make_store(store, tokenizer, sources, block_documents=4, shard_bytes=SHARD_BYTES)
    shutil.copyfile(root / "tokenizer/tokenizer.json", store / "tokenizer.json")
    (store / "tokenizer_config.json").write_text("{}")
    return root


@pytest.fixture
def server(bucket, tmp_path, monkeypatch):
    """A server of a copy of the bucket, which a test may damage."""
    shutil.copytree(bucket / "bucket", tmp_path / "buckets/bucket")
    monkeypatch.setattr(download, "LONGEST_PAUSE_SECONDS", 0.3)
    with serving(tmp_path / "buckets", monkeypatch) as store:
        yield store


def open_cache(limit_bytes=None, policy=PATIENT, folder="cache") -> Cache:
    return Cache(Path(folder), limit_bytes, policy)


def open_web(cache: Cache, split="train"):
    return open_store(URL, {"web"}, cache).sources["web"][split]


def read_all(split, reader) -> list[list[int]]:
    return [reader.read(split, block).tolist() for block in range(split.num_blocks)]


def read_locally(bucket: Path) -> list[list[int]]:
    split = open_store(str(bucket / "bucket/store"), {"web"}, None).sources["web"]["train"]
    with closing(BlockReader([split])) as reader:
        return read_all(split, reader)


def cached_shards(folder="cache") -> dict[str, Path]:
    return {file.name: file for file in Path(folder).glob("shards/*/*")}


def bytes_of(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def test_reading_through_a_cache_smaller_than_the_store(server, bucket):
    limit = 10 * SHARD_BYTES
    cache = open_cache(limit)
    split = open_web(cache)
    with closing(BlockReader([split], cache)) as reader:
        assert read_all(split, reader) == read_locally(bucket)
        assert 0.5 * limit < bytes_of(Path("cache/shards")) <= limit
        # Each shard is downloaded once, and nothing of sources that are not read.
        assert set(server.shards_got().values()) == {1}
        assert len(server.shards_got()) == len(split.shards) > 40
    assert not [key for key in server.gets if "code" in key or ("valid" in key and key.endswith(".mds"))]
    assert os.listdir("cache/incoming") == ["room.lock"]


def test_what_is_cached_is_not_downloaded_again(server, bucket):
    for _ in range(2):
        cache = open_cache()
        split = open_web(cache)
        with closing(BlockReader([split], cache)) as reader:
            assert read_all(split, reader) == read_locally(bucket)
    # Downloaded at every start, since it may have changed.
    assert server.gets.pop("bucket/store/manifest.json") == 2
    assert set(server.gets.values()) == {1}


def _run_all(processes: list) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


def test_processes_that_open_at_once_fetch_once(server):
    server.delay_seconds = 0.5
    all_there = fork.Barrier(4)

    def open_one() -> None:
        all_there.wait()
        open_web(open_cache())

    _run_all([fork.Process(target=open_one) for _ in range(4)])
    assert server.gets.pop("bucket/store/manifest.json") < 4  # later ones download it again
    assert len(server.gets) == 8
    assert set(server.gets.values()) == {1}


def test_many_processes_read_below_the_limit(server, bucket):
    """Each reads in its own order, with little more space than they read at once, and never above the limit."""
    expected, limit = read_locally(bucket), 12 * SHARD_BYTES

    def read(seed: int) -> None:
        cache = open_cache(limit)
        split = open_web(cache)
        blocks = np.random.default_rng(seed).permutation(split.num_blocks).tolist()[:80]
        with closing(BlockReader([split], cache)) as reader:
            reader.fetch_ahead({"web": split}, [("web", split.shard_of(block)) for block in blocks[:20]])
            assert all(reader.read(split, block).tolist() == expected[block] for block in blocks)

    processes = [fork.Process(target=read, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        most = max(most, bytes_of(Path("cache/shards")))
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0] * 4
    assert 0.5 * limit < most <= limit
    assert sum(server.shards_got().values()) > len(
        server.shards_got()
    )  # shards were evicted and downloaded again


def make_big_shard(server, folder: Path) -> list[list[int]]:
    """Write a store of one shard of four megabytes; clients buffer what is shorter than a sixteenth of that."""
    documents = np.random.default_rng(0).integers(5, 256, (8, 262_144)).tolist()
    make_store(server.root / "bucket/big", make_tokenizer(folder), {"web": {"train": documents}})
    return documents


def test_killed_in_the_middle_of_a_download(server, tmp_path):
    documents = make_big_shard(server, tmp_path)
    cache = open_cache()
    split = open_store("s3://bucket/big", {"web"}, cache).sources["web"]["train"]
    server.bytes_per_second = 500_000

    def read() -> None:
        with closing(BlockReader([split], cache)) as reader:
            reader.read(split, 0)

    process = fork.Process(target=read)
    process.start()
    while not list(Path("cache/incoming").rglob("*shard.00000.mds/download/1/*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    server.bytes_per_second = None
    left = [name for name in os.listdir("cache/incoming") if name.startswith("shards--")]
    assert len(left) == 2  # the claim and a partial shard
    cache = open_cache(8_000_000)
    assert os.listdir("cache/incoming") == ["room.lock"]
    with closing(BlockReader([split], cache)) as reader:
        assert reader.read(split, 0).tolist() == [token for document in documents for token in document]


@pytest.mark.parametrize("damage", ["flipped bit", "truncated"])
def test_a_shard_damaged_in_the_cache_is_downloaded_again(server, bucket, caplog, damage):
    cache = open_cache()
    split = open_web(cache)
    with closing(BlockReader([split], cache)) as reader:
        read_all(split, reader)
    shard = cached_shards()["shard.00003.mds"]
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content if damage == "flipped bit" else content[: len(content) // 2])
    os.utime(shard, (1, 1))  # written before the next run begins
    cache = open_cache()
    with closing(BlockReader([split], cache)) as reader:
        assert read_all(split, reader) == read_locally(bucket)
    assert server.shards_got()["bucket/store/web/train/shard.00003.mds"] == 2
    assert "shard.00003.mds is damaged" in caplog.text
    assert sum(server.shards_got().values()) == len(split.shards) + 1


def test_a_shard_damaged_in_the_store(server):
    remote = server.root / "bucket/store/web/train/shard.00002.mds"
    content = bytearray(remote.read_bytes())
    content[100] ^= 1
    remote.write_bytes(content)
    cache = open_cache()
    split = open_web(cache)
    with closing(BlockReader([split], cache)) as reader:
        message = (
            r"s3://bucket/store/web/train/shard.00002.mds cannot be read, given up after 3 attempts in \d+ s \(it "
            r"arrives damaged: its sha1 differs.*\); it is damaged in the store: upload"
        )
        with pytest.raises(ValueError, match=message):
            read_all(split, reader)
        assert "shard.00002.mds" not in cached_shards()
        with pytest.raises(ValueError, match="arrives damaged"):  # nor is it kept for the next read
            read_all(split, reader)
    assert os.listdir("cache/incoming") == ["room.lock"]


def test_an_answer_that_is_cut_short(server):
    cache = open_cache()
    split = open_web(cache)
    server.cut = "shard.00000"
    with (
        closing(BlockReader([split], cache)) as reader,
        pytest.raises(ValueError, match="given up after 3 attempts"),
    ):
        reader.read(split, 0)
    assert not cached_shards()


def test_a_server_that_comes_back(server, bucket, caplog):
    cache = open_cache(policy=RetryPolicy(attempts=100, silence_seconds=20))
    split = open_web(cache)
    server.stop()

    def come_back() -> None:
        while "attempt 1 failed" not in caplog.text:
            time.sleep(0.05)
        server.start()

    threading.Thread(target=come_back).start()
    with closing(BlockReader([split], cache)) as reader:
        assert read_all(split, reader) == read_locally(bucket)
    assert "attempt 1 failed (not reachable: EndpointConnectionError" in caplog.text


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_server_that_does_not_come_back(server, how):
    split = open_web(open_cache())
    policy = IMPATIENT if how == "silent" else PATIENT
    cache = open_cache(policy=policy)
    if how == "gone":
        server.stop()
    else:
        server.silent = "shard"
    started = time.monotonic()
    reader = BlockReader([split], cache)
    with pytest.raises(ValueError, match="given up after 3 attempts in") as error:
        reader.read(split, 0)
    longest = (
        policy.attempts * policy.silence_seconds + (policy.attempts - 1) * download.LONGEST_PAUSE_SECONDS
    )
    assert time.monotonic() - started < longest + 20  # for a busy machine
    reason = (
        r"is not reachable, .*\(not reachable: EndpointConnectionError"
        if how == "gone"
        else r"cannot be read, .*no byte for 1 s"
    )
    assert error.match(f"^store: s3://bucket/store/web/train/shard.00000.mds {reason}")
    assert error.match("check the server and the network, then run the same command again to continue")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_hugging_face_without_a_network(monkeypatch, offline):
    """One line, at once offline, and after the attempts of the policy if there is nothing at the address."""
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline == "1")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    cache = open_cache(policy=RetryPolicy(attempts=2, silence_seconds=30))
    message = (
        r"store: hf://datasets/a/b/manifest.json is not reachable, given up after 2 attempts in \d s \(not reachable: "
        r"\w+: .*\); check the server and the network, then run the same command again to continue"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        open_store("hf://datasets/a/b", {"web"}, cache)


def test_pauses_between_attempts():
    assert [RetryPolicy().pause(attempt) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_slow_is_not_silent(server, tmp_path):
    make_big_shard(server, tmp_path)
    split = open_store("s3://bucket/big", {"web"}, open_cache()).sources["web"]["train"]
    cache = open_cache(policy=RetryPolicy(attempts=1, silence_seconds=4))
    server.bytes_per_second = 700_000  # six seconds in all, longer than the timeout without data
    started = time.monotonic()
    with closing(BlockReader([split], cache)) as reader:
        reader.read(split, 0)
    assert time.monotonic() - started > 4


@pytest.mark.parametrize(
    ("url", "variables", "message"),
    [
        (URL, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
         "reading s3://bucket/store/manifest.json needs credentials, and none were found .*; set AWS_ACCESS_KEY"),
        (URL, {"AWS_SECRET_ACCESS_KEY": None}, "needs credentials, .*Partial credentials found.*; set AWS_ACCESS"),
        ("s3://bucket/stor", {}, "s3://bucket/stor/manifest.json does not exist .*; check data.sources and what"),
        ("s4://bucket/store", {}, "s4://bucket/store has an unknown scheme; use a folder, or a URL with s3://, gs://"),
        (URL, {"S3_ENDPOINT_URL": "nowhere"}, "cannot be read .*nowhere.*; check the URL and the server's settings"),
        ("gs://bucket/store", {"GOOGLE_APPLICATION_CREDENTIALS": "none.json"}, "; set GOOGLE_APPLICATION_CREDENTIALS"),
        ("oci://bucket/store", {"HOME": "."}, "; run `oci setup config`"),
    ],
)  # fmt: skip
def test_what_no_second_attempt_would_change(server, monkeypatch, url, variables, message):
    # On a machine in the cloud, the client would find credentials there.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message) as error:
        open_store(url, {"web"}, open_cache())
    assert "given up after" not in str(error.value)


def test_not_allowed(server, monkeypatch):
    """The server refuses unsigned requests, as S3 refuses an invalid signature."""
    monkeypatch.setattr("botocore.auth.HmacV1Auth.add_auth", lambda self, request: None)
    monkeypatch.setattr("botocore.auth.S3SigV4Auth.add_auth", lambda self, request: None)
    with pytest.raises(
        ValueError, match=r"is not allowed with the credentials found .*; set AWS_ACCESS_KEY_ID"
    ):
        open_web(open_cache())


def test_a_store_that_has_changed(server, bucket, caplog):
    split = open_web(open_cache())
    tokenizer = make_tokenizer(Path("tokenizer"))
    shutil.rmtree(server.root / "bucket/store")
    documents = random_documents(100, 9)
    make_store(
        server.root / "bucket/store", tokenizer, {"web": {"train": documents}}, shard_bytes=SHARD_BYTES
    )
    cache = open_cache()
    changed = open_web(cache)
    assert "s3://bucket/store has changed since it was last read here" in caplog.text
    assert changed.num_documents == 100 != split.num_documents
    with closing(BlockReader([changed], cache)) as reader:
        read = [token for block in read_all(changed, reader) for token in block]
    assert read == [token for document in documents for token in document]
    # A reader of the earlier version gets an error, not shards of the new one.
    with (
        closing(BlockReader([split], cache)) as reader,
        pytest.raises(ValueError, match=r"store: s3://.*train/shard"),
    ):
        read_all(split, reader)


def test_a_sidecar_damaged_in_the_store(server):
    sidecar = server.root / "bucket/store/web/train/lengths.npy"
    sidecar.write_bytes(sidecar.read_bytes()[:-4] + b"\1\0\0\0")
    with pytest.raises(ValueError, match=r"web/train/lengths.npy cannot be read.*its sha256 differs"):
        open_web(open_cache())


def test_a_sidecar_cut_short_in_the_cache_is_fetched_again(server):
    split = open_web(open_cache())
    whole = (split.path / "lengths.npy").read_bytes()
    (split.path / "lengths.npy").write_bytes(whole[:99])
    open_web(open_cache())
    assert (split.path / "lengths.npy").read_bytes() == whole


def test_a_sidecar_damaged_in_the_cache_is_fetched_again(server, caplog):
    split = open_web(open_cache())
    whole = (split.path / "blocks.npy").read_bytes()
    (split.path / "blocks.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    open_web(open_cache())
    assert (split.path / "blocks.npy").read_bytes() == whole
    assert (
        "blocks.npy is damaged (its sha256 differs from the recorded one): it is downloaded again"
        in caplog.text
    )


@pytest.mark.parametrize("name", ["../../../OUT", "/tmp/OUT", "a\\b"])
def test_a_remote_store_that_names_files_elsewhere(server, tmp_path, name):
    """Nothing is written outside the folder of the store in the cache, and nothing is asked for."""
    store = server.root / "bucket/store"
    edit_manifest(store, lambda content: content["sources"].update({name: content["sources"]["web"]}))
    with pytest.raises(
        ValueError, match=r"manifest\.json: sources\.\S+ is .* a source whose name is one of a folder"
    ):
        open_store(URL, {"web", name}, open_cache())
    edit_manifest(store, lambda content: content["sources"].pop(name))
    files = ["web/train/../../../../OUT", "../OUT"]
    edit_manifest(
        store,
        lambda content: content["sources"]["web"]["splits"]["train"]["files"].update(
            {file: {"bytes": 1, "sha256": ""} for file in files}
        ),
    )
    open_web(open_cache())  # other files than a split has are not read
    index = store / "web/train/index.json"
    content = json.loads(index.read_text())
    content["shards"][1]["raw_data"]["basename"] = name
    index.write_text(json.dumps(content))
    assert not [key for key in server.gets if "OUT" in key]
    edit_manifest(
        store, lambda content: content["sources"]["web"]["splits"]["train"].update(files=stated(store))
    )
    with pytest.raises(
        ValueError, match=r"index\.json: shards\[1\]\.raw_data\.basename is .*allowed: a path below"
    ):
        open_web(open_cache())
    assert not [path for path in tmp_path.rglob("*") if "OUT" in path.name]


def stated(store: Path) -> dict[str, dict[str, object]]:
    files = [store / "web/train" / name for name in ("index.json", "lengths.npy", "blocks.npy", "shards.npy")]
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    }


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (".", URL),
        ("web/mds", f"{URL}/web/mds"),
        ("s3://other/mds", "s3://other/mds"),
        ("/etc", None),
        ("../x", None),
    ],
)
def test_where_the_external_shards_of_a_remote_store_are(server, shards, expected):
    samples = {"column": "input_ids", "dtype": None, "strip": [], "num_ids": 256}
    edit_manifest(
        server.root / "bucket/store",
        lambda content: content["sources"]["web"]["splits"]["train"].update(shards=shards, samples=samples),
    )
    cache = open_cache()
    if expected is None:
        with pytest.raises(
            ValueError, match="are in a folder outside of the store, which only the machine has where"
        ):
            open_store(URL, {"code"}, cache)
    else:
        assert open_store(URL, {"code"}, cache).sources["web"]["train"].remote == expected


def test_the_tokenizer_of_a_store(server, bucket):
    folder = open_tokenizer(URL + "/", open_cache())
    assert (folder / "tokenizer.json").read_bytes() == (bucket / "tokenizer/tokenizer.json").read_bytes()
    make_tokenizer(server.root / "bucket/store", num_words=99)
    with pytest.raises(
        ValueError, match=r"tokenizer.json cannot be read.*not the tokenizer that the store was made"
    ):
        open_tokenizer(URL, open_cache(folder="other"))


def test_compressed_shards_are_kept_decompressed(server, bucket):
    """As in external stores; the raw file has no hash then, only a size."""
    folder = server.root / "bucket/store/web/train"
    blocks = read_locally(bucket)
    lengths, table = np.load(folder / "lengths.npy"), np.load(folder / "blocks.npy")
    with MDSWriter(
        out=str(folder), columns={"input_ids": "ndarray:uint16", "lengths": "ndarray:uint32"},
        compression="zstd:3", hashes=["xxh64"],
        size_limit=SHARD_BYTES, exist_ok=True, progress_bar=False,
    ) as writer:  # fmt: skip
        for number, block in enumerate(blocks):
            documents = np.array([table[number, 1]], np.uint32)
            writer.write({"input_ids": np.array(block, np.uint16), "lengths": documents})
    split = write_sidecars(folder, lengths, table, np.array([shard["samples"] for shard in writer.shards]))
    split = dataclasses.replace(split, remote=f"{URL}/web/train", digest="zstd")
    cache = open_cache(12 * SHARD_BYTES)
    with closing(BlockReader([split], cache)) as reader:
        assert read_all(split, reader) == blocks
    assert {Path(name).suffix for name in cached_shards()} == {".mds"}
    assert bytes_of(Path("cache/shards")) <= 12 * SHARD_BYTES


def test_a_shard_larger_than_the_limit(server):
    cache = open_cache(SHARD_BYTES // 4)
    split = open_web(cache)
    with (
        closing(BlockReader([split], cache)) as reader,
        pytest.raises(
            ValueError, match=r"limit_bytes is 1,000, but shard.00000.mds alone takes \d,\d+; raise it"
        ),
    ):
        reader.read(split, 0)


def test_a_cache_that_cannot_be_made():
    Path("taken").write_text("a file")
    with pytest.raises(ValueError, match=r"data.cache.folder is taken/cache, which cannot be written to"):
        open_cache(folder="taken/cache")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full(server, bucket, small_disk):
    cache = open_cache(folder=small_disk / "cache")
    split = open_web(cache)
    with (
        closing(BlockReader([split], cache)) as reader,
        pytest.raises(
            ValueError,
            match=r"data.cache.folder: no room for .*shard.*No space left on device.*set data.cache.limit_bytes",
        ),
    ):
        read_all(split, reader)
    cache = open_cache(60_000, folder=small_disk / "cache")  # the remedy
    with closing(BlockReader([split], cache)) as reader:
        assert read_all(split, reader) == read_locally(bucket)


def test_expectations(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    sha1, xxh64 = "a9993e364706816aba3e25717850c26c9cd0d89d", "44bc2cf5ad770999"
    assert expect(3, {"sha1": sha1, "xxh64": xxh64})(file) is None
    assert expect(4, {})(file) == "3 bytes instead of 4"
    assert expect(3, {"xxh64": sha1})(file) == "its xxh64 differs from the recorded one"
