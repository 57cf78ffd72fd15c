"""Packages of the optional extras, which only some commands need; pyproject.toml lists them."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Extra = Literal["evaluation", "onnx"]


def require_extra(extra: Extra, *packages: str) -> None:
    """Check that packages of an extra are installed, before they are imported.

    Args:
        extra: The extra of pyproject.toml that lists the packages.
        packages: Their names as pip knows them, such as scikit-learn.

    Raises:
        ValueError: One of them is not installed.
    """
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        are, they = ("is", "it comes") if len(missing) == 1 else ("are", "they come")
        raise ValueError(
            f"{' and '.join(missing)} {are} not installed; {they} with the extra `{extra}`: run `pip install "
            f"--no-deps -r requirements-evaluation.lock` in the repository, or `pip install {' '.join(missing)}`"
        )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
