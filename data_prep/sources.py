"""Checks of the names of sources."""

from collections.abc import Collection

from modernbert_train.store.names import is_source_name


def check_source_name(name: str, label: str, remedy: str = "") -> None:
    """Check that a source can be a folder of a store.

    Args:
        name: of the source.
        label: start of the error message.
        remedy: end of the error message.

    Raises:
        ValueError: The name has other characters than letters, digits, '_', '-' and '.'.
    """
    if not is_source_name(name):
        raise ValueError(
            f"{label} {name!r} must be a folder name of letters, digits, '_', '-' and '.', beginning with a "
            f"letter or digit{remedy}"
        )


def check_known_sources(named: Collection[str], sources: Collection[str], option: str) -> None:
    """Check that an option refers to existing sources only.

    Raises:
        ValueError: A source in `named` is not in `sources`.
    """
    unknown = sorted(set(named) - set(sources))
    if unknown:
        raise ValueError(f"{option}: no source is named {unknown[0]!r}; sources: {', '.join(sources)}")
