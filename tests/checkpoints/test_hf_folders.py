from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modernbert_train.checkpoints.hf_folders import as_hf_folder


def test_a_run_becomes_its_export_and_the_folder_goes(tiny_exported: Path) -> None:
    exported = load_file(tiny_exported / "model.safetensors")
    with as_hf_folder(tiny_exported.parent / "run") as folder:
        written = load_file(folder / "model.safetensors")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (folder / name).read_text() == (tiny_exported / name).read_text()
    assert written.keys() == exported.keys()
    assert all(torch.equal(weight, exported[name]) for name, weight in written.items())
    assert not folder.exists()
    with as_hf_folder(tiny_exported) as folder:
        assert folder == tiny_exported


@pytest.mark.parametrize("kind", ["run", "exported"])
def test_random_weights_depend_on_the_seed_alone(tiny_exported: Path, kind: str) -> None:
    found = []
    for seed in (0, 0, 1):
        with as_hf_folder(tiny_exported.parent / kind, random_seed=seed) as folder:
            assert (folder / "tokenizer.json").is_file()
            found.append(load_file(folder / "model.safetensors"))
    own = load_file(tiny_exported / "model.safetensors")
    name = "model.layers.0.attn.Wqkv.weight"
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])
    assert not torch.equal(found[0][name], own[name])
    assert found[0][name].shape == own[name].shape
