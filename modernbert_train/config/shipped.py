"""Finding a YAML file by the name that a user writes, the recipes of the package included.

The repository has its recipes under yamls/; a link, modernbert_train/yamls, makes them part of the installed package.
"""

import os
from pathlib import Path

from modernbert_train.common.text import did_you_mean

_PACKAGE = Path(__file__).parents[1]
_FOLDER = "yamls"


def find_yaml(name: str | Path, folder: Path = Path(), named_by: str = "") -> Path:
    """Return the path of a YAML file: `name` relative to `folder`, or else, for `yamls/...`, a file of the package.

    Args:
        name: As the user wrote it.
        folder: The working directory, or the folder of the file that names it.
        named_by: Appended to the path in the error, such as ` (included by recipe.yaml)`.

    Returns:
        The path of an existing file.

    Raises:
        ValueError: There is no such file.
    """
    path = folder / name
    if path.is_file():
        return path
    problem = f"{os.path.normpath(path)}{named_by}: there is no such file"
    if Path(name).parts[:1] != (_FOLDER,):
        raise ValueError(problem)
    if (_PACKAGE / name).is_file():
        return _PACKAGE / name
    shipped = [found.relative_to(_PACKAGE).as_posix() for found in shipped_yamls(_FOLDER)]
    raise ValueError(
        f"{problem}, neither in {folder.absolute()} nor among the recipes of the package, "
        f"{_PACKAGE / _FOLDER}{did_you_mean(str(name), shipped)}"
    )


def shipped_yamls(folder: str) -> list[Path]:
    """Return the YAML files of the package below a folder, such as `yamls/evaluation`."""
    return sorted((_PACKAGE / folder).rglob("*.yaml"))
