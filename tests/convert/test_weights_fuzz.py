"""Damaged weights of published folders are read with the names and shapes they should have, or refused in one line."""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from modernbert_train.checkpoints.source import open_weights
from modernbert_train.config.architecture import weight_shapes
from tests.helpers import hub
from tests.helpers.mutations import VALUES, mutate_bytes, mutate_tree, outcomes, parts

INDEX = "model.safetensors.index.json"
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}


def in_shards(folder: Path, state: hub.State, kind: str) -> None:
    """Write the weights to two files and an index."""
    names, weight_map = list(state), {}
    for number in range(2):
        file = f"model-{number}-of-2.{kind}"
        shard = {name: state[name] for name in names[number::2]}
        save_file(shard, folder / file) if kind == "safetensors" else torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    index = INDEX if kind == "safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


FORMS = {
    "safetensors": hub.save_safetensors,
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
    "safetensors shards": lambda folder, state: in_shards(folder, state, "safetensors"),
    "bin shards": lambda folder, state: in_shards(folder, state, "bin"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[Path, bytes]]:
    """Form -> its files of weights, with their content."""
    found = {}
    for number, (form, save_weights) in enumerate(FORMS.items()):
        model = hub.published_model("modernbert" if number % 2 else "bert", **SIZES)
        folder = hub.write_published(tmp_path_factory.mktemp("hub") / "it", model, save=save_weights)
        files = [*folder.glob("*model*.safetensors*"), *folder.glob("*model*.bin*")]
        found[form] = {file: file.read_bytes() for file in files}
    return found


def damaged(file: Path, data: bytes, choose: random.Random) -> bytes:
    """Return other content for a file: bytes anywhere, or values where the format has any."""
    kind = choose.randrange(4)
    if kind == 0:
        return mutate_bytes(data, choose)
    if kind == 1:
        junk = [
            b"",
            b"{}",
            b"<!DOCTYPE html>",
            b"version https://git-lfs.github.com/spec/v1\n",
            choose.randbytes(99),
        ]
        return choose.choice(junk)
    if file.suffix == ".json":
        files = [*VALUES, "config.json", "tokenizer.json", "model-0-of-2.bin", "/etc/passwd", "x/y.bin"]
        return json.dumps(mutate_tree(json.loads(data), choose, files)).encode("utf-8", "surrogatepass")
    if file.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        header = (
            mutate_bytes(data[8 : 8 + size], choose)
            if kind == 2
            else _other_header(data[8 : 8 + size], choose)
        )
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if kind == 2:
        return _with_other_pickle(data, choose)
    content = torch.load(io.BytesIO(data), weights_only=True)
    values = [
        *VALUES,
        torch.ones(3),
        torch.ones(3).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
        torch.tensor(1),
    ]
    written = io.BytesIO()
    torch.save(mutate_tree(content, choose, values), written)
    return written.getvalue()


def _other_header(header: bytes, choose: random.Random) -> bytes:
    values: list[Any] = [*VALUES, [0, 0], [8, 8, 8], "BF16", "I64", "F8_E4M3", "BOOL", {"dtype": "F32"}]
    return json.dumps(mutate_tree(json.loads(header), choose, values)).encode("utf-8", "surrogatepass")


def _with_other_pickle(data: bytes, choose: random.Random) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutate_bytes(content, choose) if name.endswith("data.pkl") else content)
    return written.getvalue()


@pytest.mark.parametrize("seeds", parts(200, 10_000))
def test_weights_of_published_folders(folders: dict[str, dict[Path, bytes]], seeds: range) -> None:
    sources = {
        folder: open_weights(folder) for folder in {next(iter(files)).parent for files in folders.values()}
    }

    def attempt(choose: random.Random) -> None:
        files = folders[choose.choice(list(folders))]
        file = choose.choice(list(files))
        source = sources[file.parent]
        try:
            file.write_bytes(damaged(file, files[file], choose))
            weights = source.read()
            assert {name: tuple(weight.shape) for name, weight in weights.items()} == weight_shapes(
                source.model
            )
            assert all(weight.isfinite().all() for weight in weights.values())
        finally:
            file.write_bytes(files[file])

    found = outcomes(seeds, attempt)
    assert found["refused"] > len(seeds) / 2
    print(found)


def test_the_folders_are_read_as_they_are(folders: dict[str, dict[Path, bytes]]) -> None:
    for files in folders.values():
        assert open_weights(next(iter(files)).parent).read()
    assert save({"x": torch.ones(1)})[8:9] == b"{", "the header that `damaged` changes"
