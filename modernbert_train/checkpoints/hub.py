"""Models by the name that a user gives: a path, or the name of a model on the Hugging Face hub."""

import re
from pathlib import Path

from modernbert_train.common.text import one_line

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Configuration, tokenizers, and weights; not those of ONNX or TensorFlow.
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
# All but those of sentence-transformers, such as 1_Pooling.
_SUBFOLDERS = ["[!0-9]*/*"]


def check_hub_name(name: str) -> None:
    """Check that a name which is no path can be that of a model on the hub, without asking the hub.

    Raises:
        ValueError: It cannot.
    """
    if not _HUB_NAME.fullmatch(name):
        raise ValueError(
            f"{name}: no such run folder, checkpoint or model; name a run folder, a step-*.pt file, a Hugging Face "
            "folder, or a model of the Hugging Face hub as OWNER/NAME"
        )


def find_model(name: str | Path) -> Path:
    """Return the path of a model.

    Args:
        name: A run folder, a checkpoint, a Hugging Face folder, or a model of the hub, such as
            `answerdotai/ModernBERT-base`, which is downloaded into the cache of huggingface_hub.

    Returns:
        The path as it is, or the folder in the cache.

    Raises:
        ValueError: There is neither, or the hub cannot be reached.
    """
    path = Path(name)
    if path.exists():
        return path
    check_hub_name(str(name))
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(name), allow_patterns=_FILES, ignore_patterns=_SUBFOLDERS))
        if not list(folder.glob("*.safetensors")):
            snapshot_download(str(name), allow_patterns=["pytorch_model*"], ignore_patterns=_SUBFOLDERS)
    except Exception as error:  # of the network, the hub or the cache
        reason = one_line(error).partition(". ")[0]
        raise ValueError(
            f"{name}: there is no such path, and the Hugging Face hub does not give a model of this name "
            f"({reason:.200}); on a machine with network, run `hf download {name} --local-dir FOLDER`, and name that "
            "folder"
        ) from None
    return folder
