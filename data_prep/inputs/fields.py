"""Fields of a record by name: `text`, or `doc.text` for the field `text` of the object `doc`."""

import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MAX_LISTED = 20

# An object becomes a tuple of (name, value) pairs, which costs no time and keeps repeated names. Only the objects that
# are looked at become mappings: see as_record.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple)
decode_json = _DECODER.decode
decode_json_at = _DECODER.raw_decode


class NoField(ValueError):
    """A record has no field of a name."""


def as_record(value: Any) -> Mapping[str, Any] | None:
    """Convert an object of decoded JSON or a row to a mapping.

    Returns:
        The mapping, None if the value is something else.

    Raises:
        ValueError: A name occurs twice.
    """
    if isinstance(value, tuple):
        record = dict(value)
        if len(record) != len(value):
            check_unique((name for name, _ in value), "fields")
        return record
    return value if isinstance(value, Mapping) else None


def check_unique(names: Iterable[str], what: str) -> None:
    """Check that no name occurs twice.

    Args:
        names: to check.
        what: they name, in the plural, for the message.

    Raises:
        ValueError: A name occurs twice.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"has {count} {what} named {reprlib.repr(name)}; rename or remove all but one")


def find_field(record: Mapping[str, Any], name: str) -> Any:
    """Find a field. A field of the very name comes before one inside an object; a null object has null fields.

    Returns:
        The value of the field.

    Raises:
        NoField: There is none.
        ValueError: A name on the path occurs twice.
    """
    if name in record:
        return record[name]
    head, dot, tail = name.partition(".")
    while dot:
        if head in record:
            if record[head] is None:
                return None
            inner = as_record(record[head])
            if inner is not None:
                try:
                    return find_field(inner, tail)
                except NoField:
                    break
        more, dot, tail = tail.partition(".")
        head = f"{head}.{more}"
    raise NoField(f"has no field {name!r}")


def describe(value: Any, name: str) -> str:
    """Say what a value is that is not a string, and what to do."""
    record = as_record(value)
    if record is not None:
        inner = next((str(key) for key in record), "NAME")
        return f"an object with the fields {listed(record)}; name one of them, such as {name}.{inner}"
    if isinstance(value, list):
        return f"a list of {len(value)} values; join them into one string in a column of their own"
    return type(value).__name__


def listed(names: Iterable[Any]) -> str:
    """List names for a message, at most MAX_LISTED of them."""
    shown = [str(name)[:100] for name in names]
    more = len(shown) - MAX_LISTED
    return ", ".join(shown[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "") or "none"
