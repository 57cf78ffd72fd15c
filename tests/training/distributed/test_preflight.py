"""If ranks do not agree, all of them stop before the first step and report which rank has which value."""

import os
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch.distributed

from modernbert_train.checkpoints.provenance import make_run_folder
from modernbert_train.config import load_recipe
from modernbert_train.store import manifest, tokenizer
from modernbert_train.training.distributed import rendezvous
from modernbert_train.training.distributed.preflight import check_run_folder, disagreements
from modernbert_train.training.distributed.rendezvous import await_ranks, join
from modernbert_train.training.train import train
from tests.helpers.recipes import TINY, make_tiny, skewed_documents
from tests.helpers.spawned import on_ranks
from tests.helpers.stores import make_store, make_tokenizer

HOST = socket.gethostname()


@pytest.fixture
def node(tmp_path):
    """The local disk of a node: a recipe with relative paths only, as if copied to each node."""
    folder = tmp_path / "node0"
    make_tiny(folder)
    (folder / "tiny.yaml").write_text(TINY.format(folder="."))
    return folder


def train_in(folder, *overrides):
    os.chdir(folder)
    train(load_recipe("tiny.yaml", list(overrides)))


def test_another_recipe(node):
    answers = on_ranks(train_in, [(node,), (node, "seed=18", "data.shuffle_rows=16")])
    assert answers[0] == answers[1]
    assert re.fullmatch(
        rf"recipe data\.shuffle_rows is 32 on rank 0 \({HOST}\) and 16 on rank 1 \({HOST}\); start every .*\n"
        rf"recipe seed is 17 on rank 0 \({HOST}\) and 18 on rank 1 \({HOST}\); start every node with the same recipe.*",
        answers[0],
    )
    assert not (node / "run").exists()


def test_another_store_at_the_same_place(node, tmp_path):
    other = tmp_path / "node1"
    shutil.copytree(node, other)
    shutil.rmtree(other / "store")
    documents = {"train": skewed_documents(400, 1), "valid": skewed_documents(20, 3)}
    documents["train"][7], documents["train"][8] = documents["train"][8], documents["train"][7]
    code = {"train": skewed_documents(200, 2), "valid": skewed_documents(20, 4)}
    make_store(other / "store", make_tokenizer(tmp_path / "again"), {"web": documents, "code": code})
    answers = on_ranks(train_in, [(node,), (other,)])
    assert answers[0] == answers[1]
    assert re.match(
        r"data \./store is \w{16} on rank 0 \(.*\) and \w{16} on rank 1 .*copy stores", answers[0]
    )


def test_another_list_of_documents_to_skip(node, tmp_path):
    other = tmp_path / "node1"
    (node / "bad.txt").write_text("web:7\n")
    shutil.copytree(node, other)
    (other / "bad.txt").write_text("web:8\n")
    option = "data.skip.documents_file=bad.txt"
    answers = on_ranks(train_in, [(node, option), (other, option)])
    assert answers[0] == answers[1]
    assert re.fullmatch(
        rf"data bad\.txt is \w+ on rank 0 \({HOST}\) and \w+ on rank 1 \({HOST}\); copy .* from the same place",
        answers[0],
    )


def test_a_node_without_the_store(node, tmp_path):
    other = tmp_path / "node1"
    shutil.copytree(node, other)
    shutil.rmtree(other / "store")
    answers = on_ranks(train_in, [(node,), (other,)])
    assert answers[0] == answers[1]
    assert answers[0].startswith(f"rank 1 ({HOST}): store: store does not exist")


def test_another_recipe_that_cannot_be_opened(node):
    """The error names the cause before the consequence."""
    answers = on_ranks(train_in, [(node,), (node, "data.sources.web.source=wbe")])
    assert answers[0] == answers[1]
    cause, consequence = answers[0].splitlines()
    assert cause.startswith(f"recipe data.sources.web.source is None on rank 0 ({HOST}) and 'wbe' on rank 1")
    assert consequence.startswith(f"rank 1 ({HOST}): data.sources.web: the store store has no source")


def test_an_error_of_all_ranks(node):
    answers = on_ranks(train_in, [(node, "data.sources.web.source=wbe")] * 2)
    assert answers[0] == answers[1]
    assert answers[0].startswith("data.sources.web: the store store has no source")


def test_each_input_is_opened_once(node, monkeypatch):
    """Checks, plan and training share the opened inputs."""
    opened = []

    def counted(module, name):
        original = getattr(module, name)

        def call(path, *arguments):
            opened.append(path.name)
            return original(path, *arguments)

        monkeypatch.setattr(module, name, call)

    counted(manifest, "read_manifest_json")
    counted(tokenizer, "tokenizer_fingerprint")
    monkeypatch.chdir(node)
    train(load_recipe("tiny.yaml", ["phases.extension=null", "phases.pretrain.tokens=8K"]))
    assert opened == ["tokenizer.json", "store"]


def test_the_same_everywhere(node):
    """Only the folder of the cache may differ between machines."""
    caches = ["data.cache.folder=disk0", "data.cache.folder=disk1"]
    starts = [(node, "phases.pretrain.tokens=8K", cache) for cache in caches]
    assert on_ranks(train_in, starts) == ["ended well"] * 2
    assert not list((node / "run").glob(".seen-by-all*"))


def look_at(folder):
    os.chdir(folder)
    join("cpu", 60)
    check_run_folder(Path("run"), wait_seconds=0.1)


def test_a_run_folder_that_one_node_alone_sees(tmp_path):
    folders = [tmp_path / "node0", tmp_path / "node1"]
    for folder in folders:
        folder.mkdir()
    answers = on_ranks(look_at, [(folders[0],), (folders[1],), (folders[0],)])
    expected = f"run_folder is run, in which rank 1 ({HOST}) cannot see what rank 0 ({HOST}) writes; name a folder on "
    assert all(answer.startswith(expected) for answer in answers)
    assert list((folders[0] / "run").iterdir()) == []


def test_launchers_with_different_world_sizes():
    answers = on_ranks(join, [("cpu", 60)] * 2, [{}, {"WORLD_SIZE": "4"}])
    assert answers[0] == answers[1]
    assert re.match(
        r"world size is 2 on rank 0 \(.*\) and 4 on rank 1 \(.*\); start every node with", answers[0]
    )


def test_two_nodes_with_the_same_rank():
    answers = on_ranks(join, [("cpu", 60)] * 3, [{}, {}, {"RANK": "1"}])
    assert len(set(answers)) == 1
    assert re.match(
        r"rank 1 was started on .* and on .*; give every node a --node_rank of its own", answers[0]
    )


def test_missing_ranks(monkeypatch):
    monkeypatch.setattr(rendezvous, "_LINGER_SECONDS", 0)
    store = torch.distributed.HashStore()
    with pytest.raises(
        ValueError, match=r"^of 4 ranks, 1-3 did not start within 0\.1 seconds; see the logs of"
    ):
        await_ranks(store, rank=0, world_size=4, seconds=0.1)
    with pytest.raises(ValueError, match=r"^rank 0 did not start; see its log$"):
        await_ranks(torch.distributed.HashStore(), rank=3, world_size=4, seconds=0.1)


def facts(**changes):
    return {"world size": "4", "code": "abc", "package torch": "2.14.1", "device": "", **changes}


def test_ranks_and_their_values():
    everyone = [facts(), facts(), facts(code="abd"), facts(code="abd")]
    (problem,) = disagreements(["a", "a", "b", "b"], everyone)
    assert (
        problem
        == "code is abc on ranks 0-1 (a) and abd on ranks 2-3 (b); check out the same commit on every node"
    )
    assert disagreements(["a"] * 4, [facts()] * 4) == []
    without = facts()
    del without["package torch"]
    (problem,) = disagreements(["a", "b", "c"], [facts(), without, facts()])
    assert problem.startswith(
        "package torch is 2.14.1 on ranks 0, 2 (a, c) and missing on rank 1 (b); install "
    )


def test_a_gpu_for_each_rank():
    devices = ["GPU-1", "GPU-2", "GPU-2", "GPU-3"]
    (problem,) = disagreements(["a"] * 4, [facts(device=device) for device in devices])
    assert problem.startswith(
        "device GPU-2 is shared by ranks 1-2 (a), but each rank needs a GPU of its own; start as many"
    )


def test_a_run_folder_that_cannot_be_made():
    Path("file").touch()
    with pytest.raises(
        ValueError, match=r"^run_folder is file/run, which cannot be created \(.*\); choose a folder"
    ):
        make_run_folder(Path("file/run"))
