"""Random numbers that depend on a key alone: the same on every machine, in every process and numpy version."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def philox(*key: object) -> np.random.Philox:
    """Return a counter-based generator whose raw output depends on `key` alone (anything with a stable `repr`).

    numpy keeps the raw output of Philox stable over its versions, unlike that of `Generator`.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))


def permutation(size: int, *key: object) -> npt.NDArray[np.int64]:
    """Return a permutation of `range(size)` that depends on `key` alone."""
    return np.argsort(philox(*key).random_raw(size), kind="stable")
