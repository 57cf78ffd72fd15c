"""External stores are indexed, planned, read back token by token, and verified."""

import json
import re
import shutil
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from streaming.base.storage import CloudDownloader
from streaming.base.util import merge_index

from data_prep.cli import main
from data_prep.index.build import shard_lengths
from modernbert_train.store import download
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import RetryPolicy
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.manifest import load_manifest
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import SIDECARS
from tests.helpers.external import CLS, COLUMNS, LENGTH, PAD, SEP, with_specials, write_mds
from tests.helpers.stores import make_tokenizer, random_documents

DOCUMENTS = random_documents(600, seed=1, median=20, longest=LENGTH - 2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer")).path


def index(store, out, tokenizer, *options):
    return main(["index", str(store), "--out", str(out), "--tokenizer", str(tokenizer), *options])


def read_back(out, source="web", split="train"):
    """Read every document of an indexed split as training does."""
    split = load_manifest(out).sources[source][split]
    reader = BlockReader([split], Cache(out.parent / "cache", None, RetryPolicy()))
    try:
        ids = np.concatenate([reader.read(split, block) for block in range(split.num_blocks)])
    finally:
        reader.close()
    ends = np.cumsum(split.lengths(), dtype=np.int64)
    assert ends[-1] == len(ids) == split.num_tokens
    return [document.tolist() for document in np.split(ids, ends[:-1])]


# Streaming leaves the closing of some files to the garbage collector
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unclosed
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("specials", [True, False], ids=["with specials", "without"])
@pytest.mark.parametrize("with_id", [True, False], ids=["with id", "ids alone"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_store_is_indexed_and_read_back(tmp_path, tokenizer, column, specials, with_id, compression):
    documents = with_specials(DOCUMENTS) if specials else DOCUMENTS
    write_mds(tmp_path / "web", documents, column, with_id=with_id, compression=compression, hashes=["sha1"])
    dtype = ["--dtype", "uint16"] if column == "bytes" else []
    assert index(tmp_path / "web", tmp_path / "out", tokenizer, *dtype) == 0
    assert len(load_manifest(tmp_path / "out").sources["web"]["train"].shards) > 1
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert read_back(tmp_path / "out") == DOCUMENTS


def write_sources(store, merged=True):
    """Write two sources of two parts each, as on the Hub, and a validation part of one; `merged`: their indexes too."""
    parts = {
        "train/web/split_1-tokenized": DOCUMENTS[:200],
        "train/web/split_2-tokenized": DOCUMENTS[200:300],
        "train/code/a": DOCUMENTS[300:400],
        "train/code/b": DOCUMENTS[400:500],
        "validation/web/a": DOCUMENTS[500:],
    }
    for part, documents in parts.items():
        write_mds(store / part, with_specials(documents), "ndarray:uint32")
    if merged:
        for folder in ("train/web", "train/code", "validation/web", "train", "validation"):
            indexes = sorted((store / folder).glob("*/index.json"))
            merge_index([str(index) for index in indexes], str(store / folder))


@unclosed
@pytest.mark.parametrize("merged", [True, False], ids=["one index", "an index a part"])
@pytest.mark.parametrize("inside", [True, False], ids=["in the store", "elsewhere"])
def test_folders_are_sources(tmp_path, tokenizer, merged, inside):
    write_sources(tmp_path / "store", merged)
    out = tmp_path / ("store" if inside else "out")
    assert index(tmp_path / "store", out, tokenizer) == 0
    if inside:  # it can be moved as a whole, and indexed again
        shutil.move(out, out := tmp_path / "moved")
        assert index(out, out, tokenizer, "--overwrite") == 0
    assert main(["verify", str(out)]) == 0
    assert {name: list(splits) for name, splits in load_manifest(out).sources.items()} == {
        "web": ["train", "valid"],
        "code": ["train"],
    }
    assert read_back(out, "web") == DOCUMENTS[:300]
    assert read_back(out, "code") == DOCUMENTS[300:500]
    assert read_back(out, "web", "valid") == DOCUMENTS[500:]


def test_folders_are_sources_without_splits_too(tmp_path, tokenizer):
    write_mds(tmp_path / "store/web/a", DOCUMENTS[:300])
    write_mds(tmp_path / "store/web/b", DOCUMENTS[300:400])
    write_mds(tmp_path / "store/code", DOCUMENTS[400:])
    assert index(tmp_path / "store", tmp_path / "out", tokenizer) == 0
    assert read_back(tmp_path / "out", "web") == DOCUMENTS[:400]
    assert read_back(tmp_path / "out", "code") == DOCUMENTS[400:]
    assert index(tmp_path / "store/web", tmp_path / "one", tokenizer, "--source", "w") == 0
    assert read_back(tmp_path / "one", "w") == DOCUMENTS[:400]


@unclosed
def test_all_as_one_source(tmp_path, tokenizer):
    write_sources(tmp_path / "store")
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--source", "mix") == 0
    assert read_back(tmp_path / "out", "mix") == DOCUMENTS[300:500] + DOCUMENTS[:300]
    assert load_manifest(tmp_path / "out").sources["mix"]["valid"].num_documents == 100


@unclosed
@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("with_id", [True, False], ids=["with id", "ids alone"])
def test_a_remote_store(tmp_path, tokenizer, compression, with_id):
    write_mds(tmp_path / "store", with_specials(DOCUMENTS), with_id=with_id, compression=compression)
    remote = fsspec.filesystem("memory")
    remote.put(str(tmp_path / "store"), f"/{tmp_path.name}", recursive=True)
    url = f"memory://{tmp_path.name}"
    assert index(url, tmp_path / "out", tokenizer, "--source", "web") == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    split = load_manifest(tmp_path / "out").sources["web"]["train"]
    assert split.remote == url
    assert split.lengths().tolist() == [len(document) for document in DOCUMENTS]


@unclosed
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_store_that_can_only_be_downloaded(tmp_path, tokenizer, monkeypatch, compression):
    """fsspec has no extension for this scheme here, so whole files are read with Streaming's downloaders."""
    write_mds(tmp_path / "bucket/train/web", with_specials(DOCUMENTS), with_id=False, compression=compression)
    merge_index([str(tmp_path / "bucket/train/web/index.json")], str(tmp_path / "bucket/train"))
    copy = lambda remote, local, timeout: shutil.copy(remote.replace("s3:/", str(tmp_path)), local)  # noqa: E731
    monkeypatch.setattr(CloudDownloader, "get", lambda url: SimpleNamespace(download=copy))
    assert index("s3://bucket", tmp_path / "out", tokenizer) == 0
    split = load_manifest(tmp_path / "out").sources["web"]["train"]
    assert split.remote == "s3://bucket/train"
    assert split.lengths().tolist() == [len(document) for document in DOCUMENTS]
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert index("s3://bucket/train/web/nothing", tmp_path / "none", tokenizer) == 2


def test_a_store_that_does_not_answer_is_not_a_store_without_shards(tmp_path, tokenizer, monkeypatch, capsys):
    write_mds(tmp_path / "store", with_specials(DOCUMENTS))
    remote = fsspec.filesystem("memory")
    remote.put(str(tmp_path / "store"), f"/{tmp_path.name}", recursive=True)

    answering = type(remote).cat_file

    def cat_file(self, path, **part):
        if path.endswith("shard.00001.mds"):
            raise TimeoutError("the network is gone")
        return answering(self, path, **part)

    monkeypatch.setattr(type(remote), "cat_file", cat_file)
    monkeypatch.setattr(download, "LONGEST_PAUSE_SECONDS", 0.01)
    assert index(f"memory://{tmp_path.name}", tmp_path / "out", tokenizer, "--skip-unreadable") == 2
    error = capsys.readouterr().err
    assert re.search(
        r"shard.00001.mds cannot be read, given up after 8 attempts .*\(TimeoutError: the network is gone\); check",
        error,
    )


def test_the_header_is_enough_when_the_ids_are_the_only_column(tmp_path, tokenizer, monkeypatch):
    write_mds(tmp_path / "store", with_specials(DOCUMENTS), with_id=False)
    monkeypatch.setattr("data_prep.index.detection.SAMPLED_SHARDS", 1)
    read = []
    monkeypatch.setattr(
        "modernbert_train.store.files.ShardFiles.read_shard",
        lambda files, shard, read_shard=ShardFiles.read_shard: (
            read.append(shard.raw.basename) or read_shard(files, shard)
        ),
    )
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--source", "web") == 0
    assert read == ["shard.00000.mds"]
    assert read_back(tmp_path / "out") == DOCUMENTS


@pytest.mark.parametrize("column", ["ndarray:uint16", "ndarray:int64", "ndarray"])
@pytest.mark.parametrize("with_id", [True, False], ids=["with id", "ids alone"])
def test_the_length_of_an_array_takes_1_2_or_4_bytes(tmp_path, tokenizer, column, with_id):
    documents = [[7] * length for length in (1, 2, 255, 256, 257, 65_535, 65_536, 70_000, 3)]
    write_mds(tmp_path / "store", documents, column, with_id=with_id, shard_bytes=1 << 26)
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--source", "web") == 0
    assert read_back(tmp_path / "out") == documents


def test_empty_documents_and_documents_of_specials_alone(tmp_path, tokenizer, capsys):
    documents = [[7, 8], [], [9], *[[]] * 300, [10]]
    write_mds(tmp_path / "store", with_specials(documents))
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--source", "web") == 0
    assert "web: left out 301 empty" in capsys.readouterr().out
    assert read_back(tmp_path / "out") == documents
    write_mds(tmp_path / "bytes", [*with_specials(documents), []], "bytes")
    assert (
        index(tmp_path / "bytes", tmp_path / "out2", tokenizer, "--source", "web", "--dtype", "uint16") == 0
    )
    assert read_back(tmp_path / "out2") == [*documents, []]


def test_sep_in_some_documents_only(tmp_path, tokenizer):
    """As for documents cut into chunks, where only the last chunk ends with [SEP]."""
    stored = [[CLS, *ids, *[SEP] * (number % 3 == 0)] for number, ids in enumerate(DOCUMENTS)]
    write_mds(tmp_path / "store", stored)
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--source", "web") == 0
    assert read_back(tmp_path / "out") == DOCUMENTS
    assert index(tmp_path / "store", tmp_path / "kept", tokenizer, "--source", "web", "--strip", "none") == 0
    assert read_back(tmp_path / "kept") == stored


def test_padded_documents(tmp_path, tokenizer):
    stored = [[CLS, *ids, SEP, *[PAD] * (number % 5)] for number, ids in enumerate(DOCUMENTS)]
    write_mds(tmp_path / "store", stored, "ndarray:int32", with_id=False)
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--source", "web") == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert read_back(tmp_path / "out") == DOCUMENTS


@unclosed
def test_a_run_that_was_cut_off_goes_on(tmp_path, tokenizer, monkeypatch):
    write_sources(tmp_path / "store")
    assert index(tmp_path / "store", tmp_path / "whole", tokenizer) == 0

    read = []

    def failing(files, folder, shard, *rest, shard_lengths=shard_lengths):
        name = shard.raw.basename
        if name.startswith("web/split_2") and not (tmp_path / "back").exists():
            raise ValueError("the network is gone")
        read.append(name)
        return shard_lengths(files, folder, shard, *rest)

    monkeypatch.setattr("data_prep.index.build.shard_lengths", failing)
    arguments = (tmp_path / "store", tmp_path / "out", tokenizer, "--workers", "1")
    assert index(*arguments) == 2
    assert len(read) > 2
    (tmp_path / "back").touch()
    done, read[:] = set(read), []
    with open(tmp_path / "out/web/train/lengths.part", "ab") as part:  # written, but not recorded
        part.write(b"half of a shard")
    assert index(*arguments) == 0
    assert done.isdisjoint(read)
    for file in (
        "manifest.json",
        *(f"{split}/{name}" for split in ("web/train", "code/train") for name in SIDECARS),
    ):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not [*(tmp_path / "out").rglob("*.part"), *(tmp_path / "out").glob("INDEXING")]


@unclosed
def test_unreadable_shards_are_named_and_left_out_on_request(tmp_path, tokenizer, capsys):
    write_sources(tmp_path / "store")
    (tmp_path / "store/train/web/split_2-tokenized/shard.00000.mds").unlink()
    assert index(tmp_path / "store", tmp_path / "out", tokenizer) == 2
    message = capsys.readouterr().err
    assert "train/web/split_2-tokenized/shard.00000.mds" in message
    assert "--skip-unreadable" in message
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--skip-unreadable") == 0
    assert "left out: store: " in capsys.readouterr().out
    assert read_back(tmp_path / "out")[:200] == DOCUMENTS[:200]
    assert main(["verify", str(tmp_path / "out")]) == 0


def edit_index(store, edit):
    content = json.loads((store / "index.json").read_text())
    edit(content)
    (store / "index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("column", "prepare", "options", "message"),
    [
        (
            "bytes",
            None,
            [],
            "column 'input_ids' has type bytes, which does not state a dtype; name it with --dtype",
        ),
        (
            "ndarray:uint16",
            None,
            ["--column", "ids"],
            "column 'ids' is not in the shard; it has: id, input_ids",
        ),
        ("ndarray:uint16", None, ["--column", "id"], "column 'id' is of type 'str', allowed: bytes, ndarray"),
        ("bytes", None, ["--dtype", "uint8"], None),
        ("bytes", None, ["--dtype", "int32"], "the size of a sample is not that of int32 values"),
        ("ndarray:uint16", None, ["--strip", "bos"], "strip: 'bos' must be one of cls, sep, pad, or none"),
        ("ndarray:uint16", None, ["--workers", "0"], "workers: 0 must be at least 1"),
        ("ndarray:uint16", None, ["--source", "a b"], "source: 'a b' must be a folder name of letters"),
        (
            "ndarray:uint16",
            None,
            ["--licence", "code=CC0"],
            "licence: no source is named 'code'; sources: store",
        ),
        ("ndarray:uint16", lambda s: (s / "index.json").write_text("{"), [], "index.json is not valid JSON"),
        (
            "ndarray:uint16",
            lambda s: (s / "index.json").write_text("{}"),
            [],
            "index.json has no field shards",
        ),
        ("ndarray:uint16", lambda s: (s / "index.json").unlink(), [], "has no index.json with shards"),
        (
            "ndarray:uint16",
            lambda s: edit_index(s, lambda c: c["shards"][0].update(format="csv")),
            [],
            "allowed: format mds, version 2",
        ),
        (
            "ndarray:uint16",
            lambda s: (s / "shard.00001.mds").write_bytes((s / "shard.00001.mds").read_bytes()[:-9]),
            [],
            "index.json says",
        ),
        (
            "ndarray:uint16",
            lambda s: (s / "manifest.json").write_text("{}"),
            ["--out", "{store}"],
            "/manifest.json is not a store's manifest",
        ),
    ],
)
def test_bad_stores_and_options(tmp_path, tokenizer, capsys, column, prepare, options, message):
    store = tmp_path / "store"
    write_mds(store, [[5], *with_specials(DOCUMENTS)], column)
    if prepare:
        prepare(store)
    options = [option.format(store=store) for option in options]
    assert index(store, tmp_path / "out", tokenizer, *options) == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_ids_of_another_tokenizer(tmp_path, tokenizer, capsys):
    write_mds(tmp_path / "store", [[7, 300]] * 5)
    assert index(tmp_path / "store", tmp_path / "out", tokenizer) == 2
    assert "has ids from 7 to 300, but those of the tokenizer" in capsys.readouterr().err


def test_a_finished_index_is_replaced_on_request_only(tmp_path, tokenizer, capsys):
    write_mds(tmp_path / "store", DOCUMENTS)
    assert index(tmp_path / "store", tmp_path / "out", tokenizer) == 0
    assert index(tmp_path / "store", tmp_path / "out", tokenizer) == 2
    assert "is finished; replace it with --overwrite" in capsys.readouterr().err
    assert index(tmp_path / "store", tmp_path / "out", tokenizer, "--overwrite") == 0
    assert main(["index", "hf://datasets/x/y", "--tokenizer", str(tokenizer)]) == 2
    assert "out: hf://datasets/x/y is a URL, which cannot be written" in capsys.readouterr().err


def test_shards_that_are_not_those_of_the_manifest(tmp_path, tokenizer, capsys):
    """Shards are replaced by others with as many documents, or with ids that the tokenizer lacks."""
    store, out = tmp_path / "web", tmp_path / "out"
    write_mds(store, DOCUMENTS, with_id=False, shard_bytes=1 << 20)
    assert index(store, out, tokenizer) == 0
    for other, message in (
        ([[*ids, 7] for ids in DOCUMENTS], r"36,756 bytes instead of 35,556"),
        (DOCUMENTS[::-1], "other lengths than when it was indexed"),
        ([[number + 400 for number in ids] for ids in DOCUMENTS], "made with another tokenizer"),
    ):
        shutil.rmtree(store)
        write_mds(store, other, with_id=False, shard_bytes=1 << 20)
        with pytest.raises(ValueError, match=message):
            read_back(out)
        assert main(["verify", str(out)]) == 1
        assert f"damaged: {store}/shard.00000.mds: " in capsys.readouterr().out


@pytest.mark.parametrize("hashes", [(), ("sha1",), ("xxh64",)])
def test_verify_finds_a_flipped_byte_where_there_are_hashes(tmp_path, tokenizer, capsys, hashes):
    write_mds(tmp_path / "web", DOCUMENTS, hashes=hashes)
    assert index(tmp_path / "web", tmp_path / "out", tokenizer) == 0
    shard = tmp_path / "web/shard.00001.mds"
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1  # of an id
    shard.write_bytes(data)
    assert main(["verify", str(tmp_path / "out")]) == (1 if hashes else 0)
    if hashes:
        assert f"{shard}: damaged ({hashes[0]} differs from index.json's)" in capsys.readouterr().out
