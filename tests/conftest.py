import os
import socket

import pytest

from modernbert_train.store import integrity

# One thread everywhere: fastest for tiny tensors on few cores, and bit for bit repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command line sets it, before torch is imported
os.environ.pop("COLUMNS", None)  # text is as wide as it is without a terminal


def pytest_collection_modifyitems(items):
    """Run the folders with the longest files first: near the end, a worker without a file waits for the others."""
    longest = ("tests/acceptance/", "tests/training/", "tests/checkpoints/", "tests/sweep/")
    items.sort(
        key=lambda item: next((at for at, name in enumerate(longest) if name in item.nodeid), len(longest))
    )


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    """Nothing that a test writes by a relative path ends up in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def _own_memory(tmp_path_factory):
    """Files of stores that tests have found intact are not remembered for the user who runs them."""
    integrity._memory_file = lambda: tmp_path_factory.getbasetemp() / "verified"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The path of the tiny recipe, with a store and run folders of the module's own."""
    from tests.helpers.recipes import make_tiny  # torch, which not every test needs

    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_exported(tmp_path_factory):
    """An exported folder of a tiny ModernBERT (hidden size 32, 2 layers, bytes as tokens), which no test may change."""
    from tests.helpers.exported import write_tiny_export  # torch, which not every test needs

    return write_tiny_export(tmp_path_factory.mktemp("tiny-exported"))


@pytest.fixture
def no_process_group():
    """Training that another test has done in this process has left a process group, which trainers would join."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"):
        os.environ.pop(name, None)


@pytest.fixture
def no_network(monkeypatch):
    """A test that opens a connection, or looks up a name, fails."""

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
