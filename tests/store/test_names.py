"""What the files of a store name lies in its folder."""

import json
import os
from pathlib import Path

import pytest

from data_prep.cli import main
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import RetryPolicy
from modernbert_train.store.manifest import load_manifest
from modernbert_train.store.names import inside, to_write
from modernbert_train.store.reading import BlockReader
from tests.helpers.external import write_mds
from tests.helpers.stores import edit_manifest, make_store, make_tokenizer, random_documents, restate_files

DOCUMENTS = random_documents(60, seed=1, median=20)
BAD_NAMES = [
    "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "..", "", "a\\b", "a\0b", "a\nb", "s3://x/y", "\ud800",
    "x" * 201, "x/" * 600 + "x", 5, None, True, ["a"], {},
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_out(tmp_path, name):
    with pytest.raises(ValueError, match="allowed: a path below the folder of the store"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["shard.00000.mds", "train/lang=en/é 漢字 (1).mds", "..x", "%2e%2e/x"])
def test_names_below_the_folder(tmp_path, name):
    assert inside(tmp_path, name) == to_write(tmp_path, name) == tmp_path / name


def test_links(tmp_path):
    """A link may lead elsewhere in the store, not out of it; nothing is written through one."""
    store = tmp_path / "store"
    (store / "a").mkdir(parents=True)
    (store / "a/file").touch()
    (store / "near").symlink_to("a/file")
    (store / "out").symlink_to(tmp_path)
    (store / "far").symlink_to("/etc/passwd")
    (store / "nowhere").symlink_to("../missing")
    os.mkfifo(store / "pipe")
    assert inside(store, "near") == store / "near"
    for name in ("out/x", "far", "nowhere"):
        with pytest.raises(ValueError, match=r"is a link that leads to .*put a copy in place"):
            inside(store, name)
    for name in ("near", "pipe"):
        with pytest.raises(ValueError, match="is a link or a device and is not overwritten"):
            to_write(store, name)
    (tmp_path / "link").symlink_to(store)  # the user's own
    assert inside(tmp_path / "link", "a/file") == tmp_path / "link/a/file"


def test_the_cache_of_hugging_face(tmp_path):
    """Its snapshots are links to files beside them."""
    snapshot = tmp_path / "datasets--x--y/snapshots/0123/train"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--x--y/blobs").mkdir()
    (tmp_path / "datasets--x--y/blobs/4567").touch()
    (snapshot / "shard.00000.mds").symlink_to("../../../blobs/4567")
    assert inside(snapshot, "shard.00000.mds") == snapshot / "shard.00000.mds"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def index(store, out, tokenizer, *options):
    arguments = [
        "index",
        str(store),
        "--out",
        str(out),
        "--source",
        "web",
        "--tokenizer",
        str(tokenizer.path),
    ]
    return main([*arguments, "--strip", "none", *options])


def edit_index(folder, edit):
    content = json.loads((folder / "index.json").read_text())
    edit(content)
    (folder / "index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("part", ["raw_data", "zip_data"])
@pytest.mark.parametrize("name", ["../../OUTSIDE", "/tmp/OUTSIDE", 5])
def test_an_external_store_that_names_files_elsewhere(tmp_path, tokenizer, capsys, part, name):
    """Neither `data_prep index` nor training takes it; a store that was indexed before is refused as well."""
    write_mds(tmp_path / "mds", DOCUMENTS, compression="zstd", hashes=["sha1"])
    assert index(tmp_path / "mds", tmp_path / "out", tokenizer) == 0
    edit_index(tmp_path / "mds", lambda content: content["shards"][0][part].update(basename=name))
    assert index(tmp_path / "mds", tmp_path / "other", tokenizer) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: store: {tmp_path}/mds/index.json: shards[0].{part}.basename is {name!r}, "
    )
    edit_index(tmp_path / "out/web/train", lambda content: content["shards"][0][part].update(basename=name))
    with pytest.raises(ValueError, match=r"index\.json has .* bytes|sha256 differs"):
        load_manifest(tmp_path / "out")
    restate_files(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"shards\[0\]\.{part}\.basename is "):
        load_manifest(tmp_path / "out")
    split = load_manifest(tmp_path / "out", ()).sources["web"]["train"]
    with pytest.raises(ValueError, match=rf"shards\[0\]\.{part}\.basename is "):
        BlockReader([split], Cache(tmp_path / "cache", None, RetryPolicy()))
    assert not list(tmp_path.rglob("OUTSIDE*"))


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp", "a/b", "", "..", ".x"])
def test_a_manifest_that_names_folders_elsewhere(tmp_path, tokenizer, name):
    store = tmp_path / "store"
    make_store(store, tokenizer, {"web": {"train": DOCUMENTS}})
    edit_manifest(store, lambda content: content["sources"].update({name: content["sources"]["web"]}))
    with pytest.raises(
        ValueError, match=r"manifest\.json: sources\.\S* is .*allowed: a source whose name is one of"
    ):
        load_manifest(store)
    edit_manifest(store, lambda content: content["sources"].pop(name))
    splits = json.loads((store / "manifest.json").read_text())["sources"]["web"]["splits"]
    edit_manifest(
        store, lambda content: content["sources"]["web"].update(splits={**splits, name: splits["train"]})
    )
    with pytest.raises(ValueError, match=r"splits\.\S* is .*allowed: a split named train or valid"):
        load_manifest(store)


def test_links_in_a_store_that_came_with_it(tmp_path, tokenizer, capsys):
    """Of a shard to read, of a folder and of files to write."""
    make_store(tmp_path / "store", tokenizer, {"web": {"train": DOCUMENTS}})
    shard = tmp_path / "store/web/train/shard.00000.mds"
    shard.rename(tmp_path / "private")
    shard.symlink_to(tmp_path / "private")
    split = load_manifest(tmp_path / "store").sources["web"]["train"]
    with pytest.raises(ValueError, match=r"shard\.00000\.mds is a link that leads to .*private, out of"):
        BlockReader([split]).read(split, 0)

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    write_mds(tmp_path / "mds", DOCUMENTS)
    for name, target in (
        ("manifest.json", mine / "new"),
        ("INDEXING", mine / "notes"),
        ("web", mine),
        (".manifest.json.tmp", mine / "notes"),
    ):
        link = tmp_path / "mds" / name
        link.symlink_to(target)
        status = index(tmp_path / "mds", tmp_path / "mds", tokenizer)
        assert status == (0 if name.startswith(".") else 2)
        link.unlink(missing_ok=True)
    assert {file.name: file.read_text() for file in mine.iterdir()} == {"notes": "mine"}
    assert "is a link that leads to" in capsys.readouterr().err

    (tmp_path / "mds/lengths.png").symlink_to(mine / "notes")
    assert main(["inspect", str(tmp_path / "mds")]) == 2
    assert (mine / "notes").read_text() == "mine"


def test_a_cache_folder_that_holds_shards_of_the_user(tmp_path):
    """Making room deletes files below shards/, so it must be the cache's own."""
    (tmp_path / "data/shards").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"data\.cache\.folder is .*data, in which shards/ exists that no cache made"
    ):
        Cache(tmp_path / "data", 1_000, RetryPolicy())
    Cache(tmp_path / "empty", 1_000, RetryPolicy())
    (tmp_path / "empty/shards").mkdir()
    Cache(Path(tmp_path / "empty"), 1_000, RetryPolicy())
