"""The files of published weights: safetensors or torch's `.bin`, each as one file or as many with an index."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from modernbert_train.checkpoints.checkpoint import load_tensors
from modernbert_train.common.text import one_line

# In the order in which Transformers looks for them. Other files, such as ONNX's or TensorFlow's, are not read.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"


def find_weights(folder: Path) -> Path:
    """Return the weight file of a folder, or the index of many.

    Raises:
        ValueError: There is none.
    """
    for name in WEIGHT_FILES:
        for file in (folder / name, folder / f"{name}{_INDEX}"):
            if file.is_file():
                return file
    raise ValueError(f"{folder}: has neither {' nor '.join(WEIGHT_FILES)}; download the weights into it")


def weight_files(index: Path) -> list[str]:
    """Return the names of the files that an index names.

    Raises:
        ValueError: The index is damaged.
    """
    return list(dict.fromkeys(_weight_map(index).values()))


def read_names(file: Path) -> list[str]:
    """Return the names of the weights in the file, or in those of the index, that `find_weights` found.

    Raises:
        ValueError: The file is damaged.
    """
    if file.name.endswith(_INDEX):
        return list(_weight_map(file))
    return list(_open(file))


def read_tensors(file: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read some of the weights in the file, or in those of the index, that `find_weights` found.

    Returns:
        Published name of a weight -> its value.

    Raises:
        ValueError: A file is missing or damaged, or lacks a weight that the index promises.
    """
    if not file.name.endswith(_INDEX):
        opened = _open(file)
        return {name: opened[name] for name in names}
    weight_map, tensors, names = _weight_map(file), {}, list(names)
    for shard in dict.fromkeys(weight_map[name] for name in names):
        opened = _open(file.parent / shard)
        for name in names:
            if weight_map[name] == shard:
                if name not in opened:
                    raise ValueError(
                        f"{file.parent / shard}: lacks {name}, which {file.name} says it holds; download both again"
                    )
                tensors[name] = opened[name]
    return tensors


def read_json(file: Path) -> Any:
    """Read a JSON file of a published folder.

    Returns:
        Its content.

    Raises:
        ValueError: It cannot be read as JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {_damage(file) or one_line(error)}") from None


def _open(file: Path) -> dict[str, Tensor]:
    """Return the weights of one file, which are memory-mapped: what is not used is not read."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist, but the index beside it names it; download it too")
    if problem := _damage(file):
        raise ValueError(f"{file}: {problem}")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a dict)
        except Exception as error:  # of Rust, OSError among them
            raise ValueError(
                f"{file}: not a whole safetensors file ({one_line(error)}); download it again"
            ) from None
    if tarfile.is_tarfile(file):
        raise ValueError(
            f"{file}: in the tar format of torch before 0.2, which cannot be read without running its code; open it "
            "once with torch.load(..., weights_only=False), if you trust it, and save its weights with safetensors"
        )
    content = load_tensors(file)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(
            f"{file}: holds a {type(content).__name__}, not weights by their names; save the model's state_dict()"
        )
    return content


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(
        # A path could lead out of the folder.
        isinstance(file, str) and file == Path(file).name and file.endswith((".safetensors", ".bin"))
        for file in weight_map.values()
    ):
        raise ValueError(f"{index}: has no weight_map from weights to files beside it; download it again")
    return weight_map


def _damage(file: Path) -> str | None:
    """Say what a file is instead of what it should be: the common accidents of a download."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(64)
    except OSError:
        return None
    if not start:
        return "the file is empty; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer; run `git lfs pull` in the folder, or download the file itself"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "the file is a web page; download the file itself"
    return None
