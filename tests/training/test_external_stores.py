"""Training on an external store equals training on our own: the same documents give the same losses."""

import json

import numpy as np
import pytest

from data_prep.cli import main as data_prep
from data_prep.tokenize.writer import SplitWriter
from modernbert_train.cli import main
from modernbert_train.store.manifest import write_manifest
from tests.helpers.external import with_specials, write_mds
from tests.helpers.recipes import TINY, skewed_documents
from tests.helpers.stores import make_tokenizer

SOURCES = {
    "web": {"train": skewed_documents(400, 1), "valid": skewed_documents(20, 3)},
    "code": {"train": skewed_documents(200, 2)},
}
FOLDERS = {"train": "train", "valid": "validation"}
SHORT = ["phases.extension=null", "phases.pretrain.tokens=6K"]


def losses(folder, store, run):
    overrides = [f"run_folder={run}", *(f"data.sources.{source}.store={store}" for source in SOURCES), *SHORT]
    assert main(["train", str(folder / "tiny.yaml"), *overrides]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], [
        line["eval"] for line in lines if "eval" in line
    ]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of a recipe, and the losses on its own store."""
    folder = tmp_path_factory.mktemp("own")
    tokenizer = make_tokenizer(folder / "tokenizer")
    (folder / "tiny.yaml").write_text(TINY.format(folder=folder), encoding="utf-8")
    splits = {}
    for source, documents_of in SOURCES.items():
        for name, documents in documents_of.items():
            writer = SplitWriter(folder / "store" / source / name, "uint16", 1 << 26)
            for document in documents:
                writer.add(np.array(document, np.uint16))
            splits.setdefault(source, {})[name] = writer.finish()
    write_manifest(folder / "store", tokenizer, splits, {}, {source: {} for source in SOURCES}, "test")
    return folder, losses(folder, folder / "store", folder / "run")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Streaming leaves a file open
@pytest.mark.parametrize(
    ("column", "specials", "compression"),
    [
        ("ndarray:uint16", True, None),
        ("ndarray:int64", False, None),
        ("bytes", True, None),
        ("ndarray:uint32", True, "zstd"),
    ],
)
def test_the_same_losses_as_from_our_own_store(own, tmp_path, column, specials, compression):
    folder, expected = own
    for source, documents_of in SOURCES.items():
        for name, documents in documents_of.items():
            stored = with_specials(documents) if specials else documents
            write_mds(
                tmp_path / "mds" / FOLDERS[name] / source,
                stored,
                column,
                compression=compression,
                shard_bytes=1 << 26,
            )
    command = ["index", str(tmp_path / "mds"), "--out", str(tmp_path / "out")]
    command += [
        "--tokenizer",
        str(folder / "tokenizer"),
        *(["--dtype", "uint16"] if column == "bytes" else []),
    ]
    assert data_prep(command) == 0
    assert losses(folder, tmp_path / "out", tmp_path / "run") == expected
    assert len(expected[0]) > 3
