import importlib
import importlib.metadata
import importlib.util
import sys

import pytest

from modernbert_train.common.lean_imports import lean_imports


def test_a_needless_package_is_hidden_in_the_block_only():
    assert "paramiko" not in sys.modules
    with lean_imports():
        assert importlib.util.find_spec("paramiko") is None
        with pytest.raises(ImportError):
            importlib.import_module("paramiko")
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("paramiko")
        assert importlib.metadata.version("torch")
    assert importlib.util.find_spec("paramiko") is not None
    assert importlib.metadata.version("paramiko")
    assert "paramiko" not in sys.modules


def test_a_package_that_is_imported_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", sys)
    with lean_imports():
        assert importlib.import_module("scipy") is sys
    assert sys.modules["scipy"] is sys
