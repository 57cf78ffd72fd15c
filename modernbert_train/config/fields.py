"""The recipe's classes seen as a tree of YAML keys: which fields a section has, what a value should be."""

import dataclasses
import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from modernbert_train.common.text import did_you_mean
from modernbert_train.config.quantities import parse_bytes, parse_tokens
from modernbert_train.config.schema import Recipe


def yaml_name(field_name: str) -> str:
    """`from_`, as Python must call it, is `from` in YAML."""
    return "from" if field_name == "from_" else field_name


@cache
def section_fields(section: type) -> dict[str, Any]:
    """Returns YAML key -> annotated type for a section (a dataclass)."""
    return {yaml_name(name): hint for name, hint in get_type_hints(section).items()}


@cache
def required_fields(section: type) -> tuple[str, ...]:
    """Returns the YAML keys of a section that have no default."""
    return tuple(
        yaml_name(field.name)
        for field in dataclasses.fields(section)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def is_optional(expected: Any) -> bool:
    """Whether null is a value of its own."""
    return type(None) in get_args(expected) and get_origin(expected) in (Union, types.UnionType)


def strip_optional(expected: Any) -> Any:
    """`X | None` -> `X`."""
    if not is_optional(expected):
        return expected
    (inner,) = (arg for arg in get_args(expected) if arg is not type(None))
    return inner


def entry_type(expected: Any) -> Any:
    """Returns the type of the entries of `dict[str, X]`, None for anything else."""
    return get_args(expected)[1] if get_origin(expected) is dict else None


def is_section(expected: Any) -> bool:
    """Whether a field holds keys of its own: a dataclass or a dict of named entries."""
    return dataclasses.is_dataclass(expected) or get_origin(expected) is dict


def quantity_parser(key: str) -> Callable[[object], int] | None:
    """Returns what reads a field that is a number of tokens or bytes, by its name; None for any other field."""
    if key == "tokens" or key.endswith("_tokens"):
        return parse_tokens
    return parse_bytes if key.endswith("_bytes") else None


def expected_text(path: tuple[str, ...]) -> str:
    """Returns in words what the field at `path` (an existing one) should hold."""
    expected: Any = Recipe
    for key in path:
        expected = strip_optional(expected)
        expected = entry_type(expected) or section_fields(expected)[key]
    text = _type_text(strip_optional(expected))
    return f"{text} or null" if is_optional(expected) else text


def _type_text(expected: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    origin, args = get_origin(expected), get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(args)
    if origin is tuple:
        return f"a list of {len(args)} numbers"
    if origin is list:
        return "a list of texts"
    return "a section with keys of its own" if is_section(expected) else words[expected]


def suggest_field(key: str, section: type) -> str:
    """Returns the end of the message about an unknown `key` of a section: the nearest field of the section,
    else where in the recipe a field of that name lives, else the fields there are.
    """
    siblings = list(section_fields(section))
    near = did_you_mean(key, siblings)
    if near:
        return near
    elsewhere = [path for path in _all_paths(Recipe, ()) if path.rsplit(".", 1)[-1] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; the fields here are {', '.join(siblings)}"


def _all_paths(expected: Any, path: tuple[str, ...]) -> Iterator[str]:
    expected = strip_optional(expected)
    entries = entry_type(expected)
    if entries is not None:
        yield from _all_paths(entries, (*path, "NAME"))
    elif is_section(expected):
        for key, hint in section_fields(expected).items():
            yield ".".join((*path, key))
            yield from _all_paths(hint, (*path, key))
