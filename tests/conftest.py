import os

import pytest

# One thread everywhere: fastest for tiny tensors on few cores, and bit for bit repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    """Nothing that a test writes by a relative path ends up in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The path of the tiny recipe, with a store and run folders of the module's own."""
    from tests.helpers.recipes import make_tiny  # torch, which not every test needs

    return make_tiny(tmp_path_factory.mktemp("tiny"))
