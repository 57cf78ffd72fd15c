"""Damage to files: bytes that change, and JSON or state with other values."""

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from modernbert_train.common.errors import is_ours

LONGEST_LINE = 1_500
# What breaks readers: other types, extreme numbers, empty and nested containers.
VALUES: list[Any] = [
    None, True, "", "a", "../a", 0, 1, -1, 1.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30,
    [], [None], {}, {"": 1}, {"a": {"b": []}}, "\ud800", "\x00", [[1, 2], "x"],
]  # fmt: skip


def mutate_tree(content: Any, choose: random.Random, values: list[Any] = VALUES) -> Any:
    """Return a copy of nested dicts, lists and tuples in which one to three nodes are replaced, removed or added."""
    content = copy.deepcopy(content)
    for _ in range(choose.randint(1, 3)):
        node, parents = content, []
        while isinstance(node, (dict, list)) and node:
            key = choose.choice(list(node) if isinstance(node, dict) else range(len(node)))
            parents.append((node, key))
            node = list(node[key]) if isinstance(node[key], tuple) else node[key]
        if not parents:
            break
        node, key = choose.choice(parents[-4:])
        match choose.randrange(4):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[choose.choice(["a", "", 3, None, str(key)])] = copy.deepcopy(node[key])
            case _:
                node[key] = copy.deepcopy(choose.choice(values))
    return content


def mutate_bytes(data: bytes, choose: random.Random) -> bytes:
    """Return a file that was damaged: flipped bits, or parts that are missing, doubled, zero or from elsewhere."""
    found = bytearray(data)
    for _ in range(choose.randint(1, 3)):
        at, size = choose.randrange(len(found) or 1), choose.choice([1, 1, 2, 8, 64, 500])
        match choose.randrange(7):
            case 0 | 1 if found:
                found[at] ^= 1 << choose.randrange(8)
            case 2:
                del found[at:]
            case 3:
                del found[at : at + size]
            case 4:
                found[at : at + size] = bytes(size)
            case 5:
                found[at:at] = choose.randbytes(size)
            case _:
                from_ = choose.randrange(len(found) or 1)
                found[at : at + size] = found[from_ : from_ + size]
    return bytes(found)


def parts(num_fast: int, num_slow: int) -> list[Any]:
    """Return parameters of a test: the seeds of a few inputs, and, marked as slow, those of many in parts."""
    slow = [range(first, first + 1_000) for first in range(num_fast, num_fast + num_slow, 1_000)]
    ids = [f"{num_fast} inputs", *(f"1,000 inputs from {part.start}" for part in slow)]
    marks = [(), *[pytest.mark.slow] * len(slow)]
    return [
        pytest.param(p, marks=m, id=i) for p, m, i in zip([range(num_fast), *slow], marks, ids, strict=True)
    ]


def outcomes(seeds: range, attempt: Callable[[random.Random], object]) -> Counter[str]:
    """Make an attempt for each seed; it succeeds, or gives an error of one line for users.

    Returns:
        How many attempts were "read" and "refused".
    """
    found: Counter[str] = Counter()
    for seed in seeds:
        error = _error(attempt, seed)
        if error is not None:
            text = str(error)
            assert isinstance(error, ValueError), f"input {seed}: {error!r}"
            assert is_ours(error), f"input {seed}: {error!r}"
            assert 10 < len(text) < LONGEST_LINE, f"input {seed}: {text}"
            assert "\n" not in text, f"input {seed}: {text}"
        found["read" if error is None else "refused"] += 1
    return found


def _error(attempt: Callable[[random.Random], object], seed: int) -> BaseException | None:
    try:
        attempt(random.Random(seed))
    except BaseException as error:  # panics of Rust among them
        if isinstance(error, KeyboardInterrupt):
            raise
        return error
    return None
