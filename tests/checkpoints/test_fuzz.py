"""Damaged checkpoints are refused in one line, and nothing damaged is taken for whole."""

import datetime
import io
import json
import math
import pickle
import random
import zipfile
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch

from modernbert_train.checkpoints.checkpoint import (
    checkpoint_path,
    finish_checkpoint,
    read_state,
    save_weights,
    unfinished_path,
)
from modernbert_train.checkpoints.info import info_file, read_info
from modernbert_train.checkpoints.source import open_weights
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import TIED_WEIGHT, weight_shapes
from tests.helpers.mutations import VALUES, mutate_bytes, mutate_tree, outcomes, parts
from tests.helpers.weights import make_info

MODEL = ModelConfig(
    vocab_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4
)
WEIGHTS = {name: torch.ones(shape) for name, shape in weight_shapes(MODEL).items()}
INFO = make_info(step=3, model=MODEL, run="abc")


def a_state():
    """Return a state of the kinds that Composer stores."""
    trained = {name: weight for name, weight in WEIGHTS.items() if name != TIED_WEIGHT}
    return {
        "model": OrderedDict((f"model.{name}", weight) for name, weight in WEIGHTS.items()),
        "optimizers": {
            "AdamW": {
                "state": {f"model.{name}": {"step": torch.tensor(3.0), "exp_avg": w} for name, w in trained.items()},
                "param_groups": [{"lr": 0.1, "betas": (0.9, 0.98), "params": [f"model.{name}" for name in trained]}],
            }
        },
        "callbacks": {"WeightAverage": {"num_steps": 3, "weights": trained}},
        "timestamp": {"Timestamp": {"batch": 3, "total_wct": datetime.timedelta(seconds=3)}},
        "dataset_state": {"train": {"step": 3, "positions": {0: (0, 3)}, "fingerprint": "e0558fbc5f6de453"}},
        "metadata": {"torch_version": torch.torch_version.TorchVersion("2.11.0")},
    }  # fmt: skip


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def write(run, data, info=INFO):
    """Write any bytes as a checkpoint that its JSON file calls whole."""
    path = checkpoint_path(run, 3)
    unfinished_path(path).write_bytes(data)
    finish_checkpoint(path, info)
    return path


def read(run):
    """Read everything that the commands read of a checkpoint."""
    source = open_weights(run)
    read_state(source.path, mapped=False)
    weights = source.read()
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == weight_shapes(source.model)
    assert all(weight.isfinite().all() for weight in weights.values())
    if source.info.weights_only:
        return
    source.read_average()


def with_pickle(data, change):
    """Return a file of torch whose pickle is changed, with sums that fit."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return file.getvalue()


@pytest.mark.parametrize("seeds", parts(300, 10_000))
def test_bytes_of_a_checkpoint_that_its_json_calls_whole(tmp_path, seeds):
    kinds = [saved({"state": a_state()}), saved({"state": a_state()}, _use_new_zipfile_serialization=False)]

    def attempt(choose: random.Random) -> None:
        data = choose.choice(kinds)
        kind = choose.randrange(4)
        if kind == 0:
            data = mutate_bytes(data, choose)
        elif kind == 1:
            data = with_pickle(kinds[0], lambda content: mutate_bytes(content, choose))
        elif kind == 2:
            values = [*VALUES, torch.ones(3), torch.tensor(math.nan), datetime.timedelta(1), (1, 2)]
            content = mutate_tree({"state": a_state()}, choose, values)
            data = saved(content)
        else:
            junk = [
                b"",
                b"PK",
                b"<html>",
                b"version https://git-lfs.github.com/spec/v1\n",
                choose.randbytes(99),
            ]
            data = choose.choice([*junk, pickle.dumps(choose.choice(VALUES)), saved(choose.choice(VALUES))])
        write(tmp_path, data)
        read(tmp_path)

    found = outcomes(seeds, attempt)
    assert found["refused"] > len(seeds) / 3
    print(found)


@pytest.mark.parametrize("seeds", parts(300, 10_000))
def test_damage_of_a_checkpoint_or_its_json_is_seen(tmp_path, seeds):
    path = write(tmp_path, saved({"state": a_state()}))
    files = {file: file.read_bytes() for file in (path, info_file(path))}
    whole, content = read_info(path), json.loads(info_file(path).read_text())

    def attempt(choose: random.Random) -> None:
        file = choose.choice(list(files))
        if file == path or choose.random() < 0.4:
            damaged = mutate_bytes(files[file], choose)
        else:
            damaged = json.dumps(mutate_tree(content, choose)).encode("utf-8", "surrogatepass")
        try:
            file.write_bytes(damaged)
            read(tmp_path)
            assert damaged == files[file] or (file != path and read_info(path) == whole)
        finally:
            file.write_bytes(files[file])

    found = outcomes(seeds, attempt)
    assert found["refused"] > len(seeds) * 0.8
    print(found)


@pytest.mark.parametrize("seeds", parts(300, 2_000))
def test_json_files_of_older_versions_which_have_no_hash(tmp_path, seeds):
    path = save_weights(tmp_path, WEIGHTS, replace(INFO, run=None))
    content = json.loads(info_file(path).read_text())
    del content["json_sha256"], content["run"]

    def attempt(choose: random.Random) -> None:
        changed = mutate_tree(content, choose)
        info_file(path).write_text(json.dumps(changed), encoding="utf-8", errors="surrogatepass")
        read(tmp_path)

    found = outcomes(seeds, attempt)
    assert found["refused"] > len(seeds) / 3
    print(found)
