"""What a row asks of the model: its masked tokens, or for every token the next one (`predict_next`).

Masked-language-model masking is pure: ids in, masked ids and labels out, random numbers by counter.

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

from modernbert_train.data.order import philox
from modernbert_train.store.manifest import TokenizerInfo

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_HALF = np.uint64(32)  # bits of half a draw

IGNORE_INDEX = -100  # label of a slot that asks for nothing: cross entropy skips it


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


def max_targets(slots: int, rate: float) -> int:
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
        The masked ids [row_tokens]; positions [max_targets] of the chosen tokens, ascending, and their labels (the
        original ids) [max_targets], both filled up with position 0 and label -100; and how many were chosen.

    """
    candidates = np.flatnonzero(np.take(masking.maskable, input_ids))
    generator = philox(*key)
    slots = max_targets(len(input_ids), rate)
    # One at least: a step without any masked token would have no loss.
    num_targets = min(max(1, int(rate * len(candidates) + 0.5)), len(candidates), slots)
    positions = np.zeros(slots, dtype=np.int32)
    labels = np.full(slots, IGNORE_INDEX, dtype=np.int32)
    masked_ids = input_ids.copy()
    if num_targets:
        chosen, shares = _choose(len(candidates), num_targets, generator)
        where = candidates[chosen]
        original = input_ids[where]
        positions[:num_targets] = where
        labels[:num_targets] = original
        masked_ids[where] = _replacements(original, shares, masking, generator)
    return masked_ids, positions, labels, num_targets


def predict_next(input_ids: Int32, segment_tokens: Int32, num_tokens: int) -> tuple[Int32, Int32, int]:
    """Causal language modelling: each token but the last of its document predicts the next one, [SEP] included.

    Args:
        input_ids: [row_tokens].
        segment_tokens: [num_segments] adds up to row_tokens: first the documents, then padding.
        num_tokens: slots before the padding.

    Returns:
        Positions that predict, ascending, and their labels, both [row_tokens] and filled up with position 0 and label
        -100; and how many predict.

    """
    predicts = np.arange(len(input_ids)) < num_tokens
    predicts[np.cumsum(segment_tokens) - 1] = False
    where = np.flatnonzero(predicts)
    positions = np.zeros(len(input_ids), dtype=np.int32)
    labels = np.full(len(input_ids), IGNORE_INDEX, dtype=np.int32)
    positions[: len(where)] = where
    labels[: len(where)] = input_ids[where + 1]
    return positions, labels, len(where)


def _choose(count: int, chosen: int, generator: np.random.Philox) -> tuple[Int64, Float64]:
    """A uniform choice of `chosen` among `count`, without replacement, ascending; and for each a number in [0, 1).

    The chosen have the smallest of independent random numbers. Below the first of those not chosen these are themselves
    independent and uniform, so that the same numbers, scaled, serve to decide what becomes of the chosen.
    """
    draws = generator.random_raw(-(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    if chosen == count:
        return np.arange(count), draws * 2.0**-32
    ordered = np.partition(draws, chosen)
    indices = np.flatnonzero(draws <= ordered[:chosen].max())[:chosen]  # of equal draws the first
    return indices, draws[indices] / max(1, int(ordered[chosen]))


def _replacements(original: Int32, shares: Float64, masking: Masking, generator: np.random.Philox) -> Int32:
    """What the model sees in place of the chosen tokens [num_targets]; `shares` decide (see `_choose`)."""
    replaced = np.where(shares < masking.mask_fraction, np.int32(masking.mask_id), original)
    drawn = np.flatnonzero(
        (shares >= masking.mask_fraction) & (shares < masking.mask_fraction + masking.random_fraction)
    )
    # 32 random bits scaled to a whole number below the count: a multiplication where the remainder would be a
    # division, and as even as 32 bits allow.
    which = (generator.random_raw(len(drawn)) >> _HALF) * np.uint64(len(masking.ordinary_ids)) >> _HALF
    replaced[drawn] = masking.ordinary_ids[which]
    return replaced
