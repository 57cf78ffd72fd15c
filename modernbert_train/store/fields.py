"""JSON files of a store, read field by field: a field that is missing or of another type is an error that names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modernbert_train.common.text import one_line, shorten

# Offsets in shards are uint32, and no count of documents or tokens comes near to this.
MOST = 1 << 53
REMEDY = "restore the file from a copy, or prepare the store again"


def read_json(file: Path, what: str = "store") -> Fields:
    """Read a JSON file that holds an object.

    Args:
        file: to read.
        what: start of error messages.

    Returns:
        The fields of the object.

    Raises:
        ValueError: The file cannot be read, or is no such JSON.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{what}: {file} cannot be read ({error.strerror}); {REMEDY}") from error
    return parse_json(data, str(file), what)


def parse_json(data: bytes, file: str, what: str = "store") -> Fields:
    """Parse the bytes of a JSON file that holds an object, see `read_json`."""
    try:
        return Fields(json.loads(data.decode("utf-8")), file, what)
    except RecursionError as error:
        raise ValueError(f"{what}: {file} is nested too deeply to be read; {REMEDY}") from error
    except ValueError as error:
        if isinstance(error, FieldError):
            raise
        raise ValueError(f"{what}: {file} is not valid JSON ({one_line(error)}); {REMEDY}") from error


class FieldError(ValueError):
    """A field of a JSON file is missing, or has a value that is not allowed."""


class Fields:
    """The fields of an object in a JSON file. Each is checked when it is read.

    Args:
        content: what the file holds at this place.
        file: name of the file, for messages.
        what: start of messages.
        place: names of the fields that lead here, for messages.

    Raises:
        FieldError: The content is not an object.
    """

    def __init__(self, content: Any, file: str, what: str = "store", place: tuple[str, ...] = ()) -> None:
        self._content, self._file, self._what, self._place = content, file, what, place
        if not isinstance(content, dict):
            raise self._error(place, content, "an object")

    def __contains__(self, name: str) -> bool:
        """Check whether there is a field that is not null."""
        return self._content.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all fields."""
        return iter(self._content)

    def value(self, name: str) -> Any:
        """Return a field of any type."""
        if name not in self._content:
            where = ".".join((*self._place, name))
            raise FieldError(f"{self._what}: {self._file} has no field {where}; {REMEDY}")
        return self._content[name]

    def without(self, name: str) -> dict[str, Any]:
        """Return all fields but one."""
        return {key: value for key, value in self._content.items() if key != name}

    def whole(self, name: str, least: int = 0, most: int = MOST) -> int:
        """Return a field that is a whole number."""
        value = self.value(name)
        if not is_whole(value, least, most):
            raise self.refuse(name, f"a whole number from {least} to {most}")
        return value

    def text(self, name: str) -> str:
        """Return a field that is text."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.refuse(name, "text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a field that is a list of texts."""
        value = self.value(name)
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise self.refuse(name, "a list of texts")
        return tuple(value)

    def fields(self, name: str) -> Fields:
        """Return a field that is an object."""
        return Fields(self.value(name), self._file, self._what, (*self._place, name))

    def list_of_fields(self, name: str) -> list[Fields]:
        """Return a field that is a list of objects."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.refuse(name, "a list")
        places = ((*self._place, f"{name}[{number}]") for number in range(len(value)))
        return [
            Fields(part, self._file, self._what, place) for part, place in zip(value, places, strict=True)
        ]

    def refuse(self, name: str, allowed: str) -> FieldError:
        """Return the error for a field whose value is not allowed."""
        return self._error((*self._place, name), self.value(name), allowed)

    def _error(self, place: tuple[str, ...], value: Any, allowed: str) -> FieldError:
        where = f": {'.'.join(place)} is" if place else " holds"
        return FieldError(f"{self._what}: {self._file}{where} {shorten(value)}, allowed: {allowed}; {REMEDY}")


def is_whole(value: Any, least: int = 0, most: int = MOST) -> bool:
    """Check whether a value of a JSON file is a whole number within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
