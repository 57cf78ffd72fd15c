"""Masked-language-model masking. Pure: ids in, masked ids and labels out, random numbers by counter.

Of the tokens of a row that may be masked (no special token, no padding), exactly the given rate is chosen, without
replacement; of the chosen, 80% become [MASK], 10% a random ordinary token, 10% stay (BERT, section 3.1; the fractions
are settings). A fixed count instead of a coin for each token keeps the shape of a step constant
("Cramming", section 4.3) and loses nothing. The mask is a function of the key alone, so it survives a restart and
does not depend on which rank or worker reads the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert_train.data.manifest import TokenizerInfo
from modernbert_train.data.order import philox

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_HALF = np.uint64(32)  # bits
_LOW_HALF = np.uint64(0xFFFFFFFF)

IGNORED = -100  # label of a slot that stands for no masked token: cross entropy skips it


@dataclass(frozen=True)
class Masking:
    """What becomes of the chosen tokens, and which tokens may be chosen or drawn."""

    mask_id: int
    mask_fraction: float  # replaced by [MASK]
    random_fraction: float  # replaced by a random ordinary token; the rest stays as it is
    maskable: npt.NDArray[np.bool_]  # [vocab_size] False for specials, [PAD] and ids that stand for no token
    ordinary_ids: Int32  # the ids where `maskable` is True: random replacements are drawn from these

    @classmethod
    def of(cls, tokenizer: TokenizerInfo, mask_fraction: float, random_fraction: float) -> Masking:
        """The masking for a tokenizer: its special tokens are neither chosen nor drawn."""
        maskable = np.zeros(tokenizer.vocab_size, dtype=bool)
        maskable[: tokenizer.num_ids] = True
        maskable[list(tokenizer.special_ids)] = False
        return cls(
            tokenizer.mask_id,
            mask_fraction,
            random_fraction,
            maskable,
            np.flatnonzero(maskable).astype(np.int32),
        )


def max_masked(slots: int, rate: float) -> int:
    """Most tokens that can be masked among `slots` slots: the fixed size of a row's positions and labels."""
    return math.ceil(rate * slots)


def mask_row(
    input_ids: Int32, rate: float, masking: Masking, key: tuple[object, ...]
) -> tuple[Int32, Int32, Int32, int]:
    """Mask one row.

    Args:
        input_ids: [row_tokens]; not changed.
        rate: share of the maskable tokens to choose, rounded to whole tokens, but at least one.
        masking: what to do with them.
        key: what the random choice depends on: (seed, phase, stream, window, row).

    Returns:
        The masked ids [row_tokens]; positions [max_masked] of the chosen tokens, ascending, and their labels (the
        original ids) [max_masked], both filled up with position 0 and label -100; and how many were chosen.

    """
    candidates = np.flatnonzero(masking.maskable[input_ids])
    generator = philox(*key)
    slots = max_masked(len(input_ids), rate)
    # One at least: a step without any masked token would have no loss.
    num_masked = min(max(1, int(rate * len(candidates) + 0.5)), len(candidates), slots)
    positions = np.zeros(slots, dtype=np.int32)
    labels = np.full(slots, IGNORED, dtype=np.int32)
    masked_ids = input_ids.copy()
    if num_masked:
        # The tokens with the smallest of independent random numbers are a uniform choice without replacement.
        # The low 32 bits of a draw hold the token's index: ties, and so the choice, do not depend on the sort.
        draws = (generator.random_raw(len(candidates)) & ~_LOW_HALF) | candidates.astype(np.uint64)
        chosen = np.partition(draws, num_masked - 1)[:num_masked] & _LOW_HALF
        chosen = np.sort(chosen.astype(np.int32))
        positions[:num_masked] = chosen
        labels[:num_masked] = input_ids[chosen]
        masked_ids[chosen] = _replacements(input_ids[chosen], masking, generator)
    return masked_ids, positions, labels, num_masked


def _replacements(original: Int32, masking: Masking, generator: np.random.Philox) -> Int32:
    """What the model sees in place of the chosen tokens [num_masked]."""
    raw = generator.random_raw(len(original))
    # The high half of a draw decides what happens, the low half which token: scaled to a whole number below the count,
    # which is a multiplication where the remainder would be a division, and as even as 32 bits allow.
    action, which = raw >> _HALF, raw & _LOW_HALF
    drawn = masking.ordinary_ids[(which * np.uint64(len(masking.ordinary_ids))) >> _HALF]
    replaced = np.where(action < (masking.mask_fraction + masking.random_fraction) * 2.0**32, drawn, original)
    return np.where(action < masking.mask_fraction * 2.0**32, np.int32(masking.mask_id), replaced)
