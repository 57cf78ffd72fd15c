"""Output folders that appear completely or not at all, and Transformers' model of a folder."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modernbert_train.checkpoints.hf.transformers_model import load_masked_lm
from modernbert_train.common.files import check_new_folder


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` at the end, or deleted after an error.

    Raises:
        ValueError: `out` is a file, a URL, or a folder that is not empty.
    """
    check_new_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out` and not in /tmp: a rename works only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)


def load_transformers_model(folder: Path) -> Any:
    """Load Transformers' masked-LM model from a folder that we wrote.

    Returns:
        The model, see `load_masked_lm`.

    Raises:
        ValueError: Weights are missing, unused or of another shape, which Transformers only warns about.
    """
    model, problems = load_masked_lm(folder)
    if any(problems.values()):
        raise ValueError(f"{folder}: its weights do not fit its config.json: {problems}")
    return model
