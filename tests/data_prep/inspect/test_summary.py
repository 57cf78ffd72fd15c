"""`inspect` of our stores and of external ones, local and remote."""

import fsspec
import numpy as np
import pytest

from data_prep.cli import main
from data_prep.inspect.histogram import length_histogram
from data_prep.inspect.summary import document_ids
from modernbert_train.store.manifest import load_manifest
from tests.helpers.external import with_specials, write_mds
from tests.helpers.stores import make_store, make_tokenizer, random_documents

DOCUMENTS = random_documents(500, seed=1, median=40)
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def words(ids):
    return "".join(f"w{number}" for number in ids[:80])


def make_own(folder, tokenizer):
    make_store(folder / "store", tokenizer, {"web": {"train": DOCUMENTS}}, shard_bytes=20_000)
    (folder / "store/tokenizer.json").write_bytes((tokenizer.path / "tokenizer.json").read_bytes())
    return folder / "store", folder / "store/web/train"


def make_external(folder, tokenizer, compression=None):
    write_mds(folder / "mds", with_specials(DOCUMENTS), compression=compression)
    command = ["index", str(folder / "mds"), "--out", str(folder / "out"), "--source", "web"]
    assert main([*command, "--tokenizer", str(tokenizer.path)]) == 0
    return folder / "out", folder / "mds"


@pytest.mark.parametrize("make", [make_own, make_external])
def test_table_histogram_picture_and_samples(tmp_path, tokenizer, capsys, make):
    store, _ = make(tmp_path, tokenizer)
    capsys.readouterr()
    assert main(["inspect", str(store), "--documents", "5"]) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith("web/train "))
    num_tokens = sum(map(len, DOCUMENTS))
    assert row[1:3] == ["500", f"{num_tokens:,}"]
    assert row[-1] == "100.0%"
    for number in (0, 100, 200, 300, 400):
        assert f"document {number}, {len(DOCUMENTS[number]):,} tokens\n{words(DOCUMENTS[number])}" in out
    in_bin = [len(ids) for ids in DOCUMENTS if 32 <= len(ids) < 64]
    line = next(line.split() for line in out.splitlines() if line.startswith("32 to 63"))
    assert line[3:5] == [f"{len(in_bin) / 500:.1%}", f"{sum(in_bin) / num_tokens:.1%}"]
    assert (store / "lengths.png").read_bytes().startswith(PNG)
    assert "damaged" not in out


@pytest.mark.parametrize("make", [make_own, make_external])
def test_any_document_can_be_shown(tmp_path, tokenizer, make):
    store, _ = make(tmp_path, tokenizer)
    split = load_manifest(store).sources["web"]["train"]
    assert len(split.shards) > 2
    assert [document_ids(split, number).tolist() for number in range(500)] == DOCUMENTS


def truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-1])


def break_header(shard):
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])


@pytest.mark.parametrize("make", [make_own, make_external])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: shard.unlink(), "missing"),
        (truncate, "index.json says"),
        (break_header, "its header is not that of the shard in index.json"),
    ],
)
def test_damaged_shards_are_named(tmp_path, tokenizer, capsys, make, damage, message):
    store, shards = make(tmp_path, tokenizer)
    damage(shards / "shard.00001.mds")
    assert main(["inspect", str(store)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: ")]
    assert line.startswith(f"damaged: {shards}/shard.00001.mds: ")
    assert message in line


def test_samples_of_a_damaged_shard_are_passed_over(tmp_path, tokenizer, capsys):
    store, shards = make_external(tmp_path, tokenizer)
    (shards / "shard.00000.mds").unlink()
    assert main(["inspect", str(store), "--documents", "5"]) == 1
    out = capsys.readouterr().out
    assert "document 0: cannot be read (" in out
    assert f"document 400, {len(DOCUMENTS[400])}" in out


def test_a_compressed_store(tmp_path, tokenizer, capsys):
    store, shards = make_external(tmp_path, tokenizer, compression="zstd")
    assert main(["inspect", str(store)]) == 0
    assert f"document 250, {len(DOCUMENTS[250])} tokens\n{words(DOCUMENTS[250])}" in capsys.readouterr().out
    truncate(shards / "shard.00001.mds.zstd")
    assert main(["inspect", str(store)]) == 1


def test_a_remote_store_is_sampled_but_not_checked(tmp_path, tokenizer, capsys):
    write_mds(tmp_path / "mds", with_specials(DOCUMENTS))
    fsspec.filesystem("memory").put(str(tmp_path / "mds"), f"/{tmp_path.name}", recursive=True)
    url, out = f"memory://{tmp_path.name}", tmp_path / "out"
    assert main(["index", url, "--out", str(out), "--source", "web", "--tokenizer", str(tokenizer.path)]) == 0
    assert main(["inspect", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"shards in {url} are not checked here" in printed
    assert f"document 250, {len(DOCUMENTS[250])} tokens\n{words(DOCUMENTS[250])}" in printed


def test_the_picture_can_go_elsewhere(tmp_path, tokenizer, capsys):
    store, _ = make_own(tmp_path, tokenizer)
    assert main(["inspect", str(store), "--picture", str(tmp_path / "here.png")]) == 0
    assert (tmp_path / "here.png").read_bytes().startswith(PNG)
    assert not (store / "lengths.png").exists()
    assert main(["inspect", str(store), "--picture", str(tmp_path / "nowhere/here.png")]) == 2
    assert "here.png cannot be written" in capsys.readouterr().err


def test_bins_are_powers_of_two(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("modernbert_train.store.split._CHUNK_ROWS", 3)
    lengths = [1, 1, 2, 3, 4, 7, 8, 1_023, 1_024]
    documents = [[7] * length for length in lengths]
    manifest = make_store(tmp_path / "store", tokenizer, {"web": {"train": documents}})
    histogram = length_histogram(manifest.sources["web"].values())
    assert np.flatnonzero(histogram.documents).tolist() == [1, 2, 3, 4, 10, 11]
    assert histogram.documents[[1, 2, 3, 4, 10, 11]].tolist() == [2, 2, 2, 1, 1, 1]
    assert histogram.tokens[[1, 2, 3, 4, 10, 11]].tolist() == [2, 5, 11, 8, 1_023, 1_024]
