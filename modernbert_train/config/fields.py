"""The dataclasses of `schema.py` as a tree of YAML keys: the fields of each section and the type of each value."""

import dataclasses
import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from modernbert_train.common.text import did_you_mean
from modernbert_train.config.quantities import parse_bytes, parse_tokens
from modernbert_train.config.schema import AUTO, AUTO_FIELDS, Recipe


def yaml_name(field_name: str) -> str:
    """Return the YAML key of a field: `from` for `from_`, which Python cannot call `from`."""
    return "from" if field_name == "from_" else field_name


def python_name(key: str) -> str:
    """Return the field of a YAML key, the inverse of `yaml_name`."""
    return "from_" if key == "from" else key


@cache
def section_fields(section: type) -> dict[str, Any]:
    """Return YAML key -> annotated type for a section (a dataclass)."""
    return {yaml_name(name): hint for name, hint in get_type_hints(section).items()}


@cache
def required_fields(section: type) -> tuple[str, ...]:
    """Return the YAML keys of a section that have no default."""
    return tuple(
        yaml_name(field.name)
        for field in dataclasses.fields(section)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def is_optional(expected: Any) -> bool:
    """Check whether a type allows null."""
    return type(None) in get_args(expected) and get_origin(expected) in (Union, types.UnionType)


def strip_optional(expected: Any) -> Any:
    """Return `X` for `X | None`."""
    if not is_optional(expected):
        return expected
    (inner,) = (arg for arg in get_args(expected) if arg is not type(None))
    return inner


def entry_type(expected: Any) -> Any:
    """Return `X` for `dict[str, X]`, None for any other type."""
    return get_args(expected)[1] if get_origin(expected) is dict else None


def child_type(section: Any, key: str) -> Any:
    """Return the type of the value under a YAML key of a section or of a dict of named entries."""
    return entry_type(section) or section_fields(section)[key]


def is_section(expected: Any) -> bool:
    """Check whether a type has keys of its own: a dataclass or a dict of named entries."""
    return dataclasses.is_dataclass(expected) or get_origin(expected) is dict


def is_scalar(expected: Any) -> bool:
    """Check whether a type is a single value, neither a section nor a list."""
    return not is_section(expected) and get_origin(expected) not in (list, tuple)


def quantity_parser(key: str) -> Callable[[object], int] | None:
    """Return the parser of a field that counts tokens or bytes, according to its name; None for any other field."""
    if key == "tokens" or key.endswith("_tokens"):
        return parse_tokens
    return parse_bytes if key.endswith("_bytes") else None


def may_be_auto(section: Any, key: str) -> bool:
    """Check whether a field of a section accepts `auto`."""
    return isinstance(section, type) and key in AUTO_FIELDS.get(section, ())


def expected_text(path: tuple[str, ...], root: type = Recipe) -> str:
    """Return in words what the existing field at `path` of `root` accepts."""
    expected: Any = root
    for key in path:
        section, expected = strip_optional(expected), child_type(strip_optional(expected), key)
    return type_text(expected) + (f" or {AUTO}" if may_be_auto(section, path[-1]) else "")


def type_text(expected: Any) -> str:
    """Describe a type of a field in words: `int | None` -> `a whole number or null`."""
    if is_optional(expected):
        return f"{type_text(strip_optional(expected))} or null"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    origin, args = get_origin(expected), get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(args)
    if origin is tuple:
        return f"a list of {len(args)} numbers"
    if origin is list:
        return {(int,): "a list of whole numbers", (float,): "a list of numbers"}.get(args, "a list of texts")
    return "a section with keys of its own" if is_section(expected) else words[expected]


def suggest_field(key: str, section: type, root: type = Recipe) -> str:
    """Return a hint about an unknown `key` of a section, the end of an error message.

    It is the most similar field of the section, otherwise the section of `root` that has a field of this name,
    otherwise all fields of the section.

    Returns:
        Text that begins with a semicolon.
    """
    siblings = list(section_fields(section))
    near = did_you_mean(key, siblings)
    if near:
        return near
    elsewhere = [path for path in _all_paths(root, ()) if path.rsplit(".", 1)[-1] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; the fields of this section are {', '.join(siblings)}"


def _all_paths(expected: Any, path: tuple[str, ...]) -> Iterator[str]:
    expected = strip_optional(expected)
    entries = entry_type(expected)
    if entries is not None:
        yield from _all_paths(entries, (*path, "NAME"))
    elif is_section(expected):
        for key, hint in section_fields(expected).items():
            yield ".".join((*path, key))
            yield from _all_paths(hint, (*path, key))
