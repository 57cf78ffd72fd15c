import json
import logging
import math
import os
import shutil

import numpy as np
import pytest
import torch

from modernbert_train.checkpoints import checkpoint
from modernbert_train.checkpoints.checkpoint import find_latest, prune, save_weights, verify
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import weight_shapes
from tests.helpers.weights import MaliciousCall, load_weights, make_info

TINY = ModelConfig(
    vocab_size=4, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=2
)
WEIGHTS = {
    name: torch.arange(float(math.prod(shape))).view(shape) for name, shape in weight_shapes(TINY).items()
}


def save(run, step, weights=WEIGHTS, **fields):
    return save_weights(run, weights, make_info(step=step, model=TINY, **fields))


def test_saved_weights_are_loaded(tmp_path):
    path = save(tmp_path, 7, phase="decay")
    assert path.name == "step-00000007.pt"
    for source in (tmp_path, path):
        weights, info = load_weights(source)
        assert weights["decoder.bias"].tolist() == [0, 1, 2, 3]
        assert (info.step, info.phase) == (7, "decay")


def test_the_newest_good_checkpoint_is_found(tmp_path):
    assert find_latest(tmp_path) is None
    save(tmp_path, 9)
    newest = save(tmp_path, 10)
    assert find_latest(tmp_path) == newest


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "longer", "no JSON", "broken JSON", "JSON of another"]
)
def test_a_damaged_checkpoint_is_skipped_with_an_error_in_the_log(tmp_path, caplog, damage):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    content = bytearray(bad.read_bytes())
    if damage == "truncated":
        bad.write_bytes(content[:-10])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        bad.write_bytes(content)
    elif damage == "no JSON":
        bad.with_suffix(".json").unlink()
    elif damage == "broken JSON":
        bad.with_suffix(".json").write_text("{")
    elif damage == "longer":
        bad.write_bytes(content + b"x")
    else:
        shutil.copyfile(good.with_suffix(".json"), bad.with_suffix(".json"))
    with caplog.at_level(logging.ERROR):
        assert find_latest(tmp_path) == good
    assert "CHECKPOINT SKIPPED" in caplog.text
    assert str(bad.with_suffix("")) in caplog.text
    with pytest.raises(ValueError, match="step-00000002"):
        verify(bad)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(tmp_path):
    save(tmp_path, 1).write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 1 checkpoint\(s\) can be read.*another run_folder"):
        find_latest(tmp_path)


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)
    for cut_off_in in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, cut_off_in, _raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, 2)
        assert find_latest(tmp_path).name == "step-00000001.pt"
    save(tmp_path, 3)
    prune(tmp_path, keep=5, newest_step=3)
    assert sorted(path.name for path in tmp_path.glob("checkpoints/*.pt")) == [
        "step-00000001.pt",
        "step-00000003.pt",
    ]
    assert not list(tmp_path.glob("checkpoints/.*.pt"))


def _raise_interrupt(*_):
    raise KeyboardInterrupt


def test_prune_keeps_the_newest_and_the_ends_of_phases(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=step == 2)
    prune(tmp_path, keep=2, newest_step=6)
    left = [int(path.stem.split("-")[1]) for path in list_checkpoints(tmp_path)]
    assert left == [2, 5, 6]
    assert len(list(tmp_path.glob("checkpoints/*.json"))) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such run folder or checkpoint"),
        ("empty", "no checkpoint in it"),
        ("x.pt", "no such checkpoint"),
    ],
)
def test_missing_checkpoints_are_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_weights(tmp_path / name)


def test_prune_removes_what_interrupted_deletions_left(tmp_path):
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    paths[0].unlink()  # killed before its JSON file was deleted
    (tmp_path / "checkpoints/step-backup.pt").touch()
    prune(tmp_path, keep=5, newest_step=3)
    left = sorted(path.name for path in tmp_path.glob("checkpoints/*"))
    assert left == [
        *(f"step-0000000{step}.{kind}" for step in (2, 3) for kind in ("json", "pt")),
        "step-backup.pt",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"decoder.bias": torch.zeros(5)},
            r"decoder\.bias is \[5\] in it, \[4\] by step-00000003\.json; restore",
        ),
        ({"model.x": torch.zeros(5)}, r"model\.x is \[5\] in it, missing by step-00000003\.json"),
        ({"decoder.bias": torch.zeros(4).int()}, r"decoder\.bias has numbers of type int32"),
        ({"decoder.bias": [1]}, "holds something else in place of weights"),
        ({1: torch.zeros(4)}, "holds something else in place of weights"),
        ({"decoder.bias": torch.full((4,), math.nan)}, "holds NaN or infinity"),
    ],
)
def test_weights_that_are_not_those_of_the_json_file(tmp_path, change, message):
    path = checkpoint.checkpoint_path(tmp_path, 3)
    model = {
        f"model.{name}" if isinstance(name, str) else name: value
        for name, value in (WEIGHTS | change).items()
    }
    torch.save({"state": {"model": model}}, checkpoint.unfinished_path(path))
    checkpoint.finish_checkpoint(path, make_info(step=3, model=TINY))
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path)


def test_missing_weights_are_named(tmp_path):
    save(tmp_path, 3, {name: value for name, value in WEIGHTS.items() if "norm" not in name})
    with pytest.raises(
        ValueError, match=r"embeddings\.norm\.weight is missing in it, \[4\] by .*; and 1 more; restore"
    ):
        load_weights(tmp_path)


def test_checkpoint_info_is_plain_json_with_a_checksum(tmp_path):
    path = save(tmp_path, 3)
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["bytes"] == path.stat().st_size
    assert len(content["sha256"]) == 64


def test_prune_keeps_skipped_checkpoints(tmp_path, caplog):
    """A damaged checkpoint neither stops a save nor counts as one of those that are kept."""
    for step in (1, 2, 3, 4, 9):
        save(tmp_path, step)
    checkpoint.checkpoint_path(tmp_path, 2).with_suffix(".json").unlink()
    checkpoint.checkpoint_path(tmp_path, 9).write_bytes(b"damaged")
    prune(tmp_path, keep=1, newest_step=4)
    left = [int(path.stem.split("-")[1]) for path in list_checkpoints(tmp_path)]
    assert left == [2, 4, 9]
    assert find_latest(tmp_path).name == "step-00000004.pt"


def test_a_malicious_checkpoint_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = checkpoint.checkpoint_path(tmp_path, 3)
    torch.save(
        {"state": {"model": WEIGHTS, "x": MaliciousCall(f"touch {tmp_path}/run")}},
        checkpoint.unfinished_path(path),
    )
    checkpoint.finish_checkpoint(path, make_info(step=3))
    for read in (checkpoint.read_weights, checkpoint.read_average):
        with pytest.raises(
            ValueError, match=r"step-00000003\.pt: refused: its pickle refers to posix\.system, which"
        ):
            read(path)
    assert not (tmp_path / "run").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "run").exists(), "the test would not notice"


def test_the_state_of_numpys_generator_in_older_checkpoints_is_passed_over(tmp_path):
    rng = [{"numpy": ("MT19937", np.arange(624, dtype=np.uint32), 624), "torch": torch.zeros(3)}]
    torch.save({"state": {"model": WEIGHTS}, "rng": rng}, tmp_path / "x.pt")
    content = checkpoint.load_tensors(tmp_path / "x.pt")
    assert not isinstance(content["rng"][0]["numpy"][1], np.ndarray)
    assert torch.equal(content["state"]["model"]["decoder.bias"], WEIGHTS["decoder.bias"])


def test_a_file_that_is_not_of_torch(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"xx")
    with pytest.raises(
        ValueError, match=r"x\.bin: refused: its pickle cannot be read as tensors; use a file that"
    ):
        checkpoint.load_tensors(tmp_path / "x.bin")
