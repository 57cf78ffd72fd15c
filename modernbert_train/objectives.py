"""Training objectives: which tokens of a row are targets, and what the model sees in their place.

A *target* is a position with a label. Under masked LM (`MaskedLM`) the targets are the masked tokens; under
next-token prediction (`NextToken`) every token but the last of its document is one, and attention is causal.
All code that depends on the objective asks its value, so a new objective needs a name in `config/schema.py`
and a class here.

Masking chooses an exact share of the tokens that are neither special nor padding, without replacement. Of the
chosen tokens 80% become [MASK], 10% a random ordinary token, and 10% stay (BERT, section 3.1; the fractions are
settings). A fixed count instead of a coin flip for each token keeps the shapes of a step constant ("Cramming",
section 4.3) at no loss. The mask depends on its key alone, so it survives a restart and does not depend on the
rank or worker that reads the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from modernbert_train.common.randomness import philox
from modernbert_train.common.types import Bool, Float64, Int32, Int64
from modernbert_train.config import EvaluationConfig, PhaseConfig
from modernbert_train.config.schema import ObjectiveName
from modernbert_train.store.manifest import TokenizerInfo

# Shifts the upper half of a 64-bit draw down.
_HALF = np.uint64(32)

# Label of a slot without a target; cross-entropy ignores it.
IGNORE_INDEX = -100


class PlainRow(NamedTuple):
    """A row of packed pieces before the objective is applied."""

    # [row_tokens]
    input_ids: Int32
    # [num_segments] adds up to row_tokens: first the pieces, then padding
    segment_tokens: Int32
    # Slots before the padding.
    num_tokens: int


class Row(TypedDict):
    """A row with its targets. `target_positions` and `labels` are filled up with position 0 and label -100."""

    # [row_tokens], masked under masked LM
    input_ids: Int32
    # [num_segments] adds up to row_tokens; each from 1 to the context length
    segment_tokens: Int32
    # [max_targets] ascending, within the row
    target_positions: Int32
    # [max_targets]
    labels: Int32
    num_targets: int
    # Slots that are not padding.
    num_tokens: int


@dataclass(frozen=True)
class Masking:
    """How chosen tokens are replaced, and which tokens can be chosen or drawn."""

    mask_id: int
    # Share of the chosen tokens that becomes [MASK].
    mask_fraction: float
    # Share that becomes a random ordinary token; the rest stays as it is.
    random_fraction: float
    # [vocab_size] False for special tokens, [PAD] and ids that no token has
    maskable: Bool
    # The ids where `maskable` is True; random replacements are drawn from them.
    ordinary_ids: Int32

    @classmethod
    def of(cls, tokenizer: TokenizerInfo, mask_fraction: float, random_fraction: float) -> Masking:
        """Return the masking for a tokenizer; its special tokens are neither chosen nor drawn."""
        maskable = np.zeros(tokenizer.vocab_size, dtype=bool)
        maskable[: tokenizer.num_ids] = True
        maskable[list(tokenizer.special_ids)] = False
        ordinary_ids = np.flatnonzero(maskable).astype(np.int32)
        return cls(tokenizer.mask_id, mask_fraction, random_fraction, maskable, ordinary_ids)


@dataclass(frozen=True)
class MaskedLM:
    """Masked language modelling: predict the masked tokens from both sides."""

    name: ClassVar[ObjectiveName] = "mlm"
    title: ClassVar[str] = "masked"
    causal: ClassVar[bool] = False
    # Whether `mask_rate` has an effect.
    reads_mask_rate: ClassVar[bool] = True

    # Share of the maskable tokens that is chosen.
    rate: float

    @property
    def fingerprint(self) -> float | None:
        """What the fingerprint of a phase's data holds of the objective: no two objectives have the same."""
        return self.rate

    def record(self) -> dict[str, str | float | None]:
        """Return the keys and values of metrics.jsonl."""
        return {"objective": self.name, "mask_rate": self.rate}

    def describe(self) -> str:
        """Return the objective in words, for tables and log lines."""
        return f"{100 * self.rate:.3g}% {self.title}"

    def target_share(self, lengths: npt.ArrayLike) -> float:
        """Return the share of the tokens that are targets, in documents of these lengths."""
        return self.rate

    def max_targets(self, row_tokens: int) -> int:
        """Return the most targets a row can have, which is the fixed size of its positions and labels."""
        return math.ceil(self.rate * row_tokens)

    def label(self, row: PlainRow, masking: Masking, key: tuple[object, ...]) -> Row:
        """Mask a row.

        Args:
            row: not changed.
            masking: how the chosen tokens are replaced.
            key: what the random choice depends on: (seed, phase, stream, shuffle block, row).

        Returns:
            The row with the chosen tokens replaced and their original ids as labels.
        """
        input_ids = row.input_ids
        candidates = np.flatnonzero(np.take(masking.maskable, input_ids))
        generator = philox(*key)
        max_targets = self.max_targets(len(input_ids))
        # At least one: a step without any target would have no loss.
        num_targets = min(max(1, int(self.rate * len(candidates) + 0.5)), len(candidates), max_targets)
        positions = np.zeros(max_targets, dtype=np.int32)
        labels = np.full(max_targets, IGNORE_INDEX, dtype=np.int32)
        masked_ids = input_ids.copy()
        if num_targets:
            chosen, draws = _choose(len(candidates), num_targets, generator)
            where = candidates[chosen]
            original = input_ids[where]
            positions[:num_targets] = where
            labels[:num_targets] = original
            masked_ids[where] = _replacements(original, draws, masking, generator)
        return Row(
            input_ids=masked_ids,
            segment_tokens=row.segment_tokens,
            target_positions=positions,
            labels=labels,
            num_targets=num_targets,
            num_tokens=row.num_tokens,
        )


@dataclass(frozen=True)
class NextToken:
    """Causal language modelling: each token but the last of its document predicts the next one, [SEP] included."""

    name: ClassVar[ObjectiveName] = "clm"
    title: ClassVar[str] = "next token"
    causal: ClassVar[bool] = True
    reads_mask_rate: ClassVar[bool] = False

    @property
    def fingerprint(self) -> float | None:
        """What the fingerprint of a phase's data holds of the objective: no two objectives have the same."""
        return None

    def record(self) -> dict[str, str | float | None]:
        """Return the keys and values of metrics.jsonl."""
        return {"objective": self.name, "mask_rate": None}

    def describe(self) -> str:
        """Return the objective in words, for tables and log lines."""
        return self.title

    def target_share(self, lengths: npt.ArrayLike) -> float:
        """Return the share of the tokens that are targets, in documents of these lengths."""
        length = np.asarray(lengths, dtype=np.float64)
        return float(1 - len(length) / length.sum())

    def max_targets(self, row_tokens: int) -> int:
        """Return the most targets a row can have, which is the fixed size of its positions and labels."""
        return row_tokens

    def label(self, row: PlainRow, masking: Masking, key: tuple[object, ...]) -> Row:
        """Return the row with the next token as the label of every target; `masking` and `key` are not read."""
        input_ids = row.input_ids
        is_target = np.arange(len(input_ids)) < row.num_tokens
        is_target[np.cumsum(row.segment_tokens) - 1] = False
        where = np.flatnonzero(is_target)
        positions = np.zeros(len(input_ids), dtype=np.int32)
        labels = np.full(len(input_ids), IGNORE_INDEX, dtype=np.int32)
        positions[: len(where)] = where
        labels[: len(where)] = input_ids[where + 1]
        return Row(
            input_ids=input_ids,
            segment_tokens=row.segment_tokens,
            target_positions=positions,
            labels=labels,
            num_targets=len(where),
            num_tokens=row.num_tokens,
        )


Objective = MaskedLM | NextToken
OBJECTIVES: dict[str, type[MaskedLM] | type[NextToken]] = {kind.name: kind for kind in (MaskedLM, NextToken)}


def build_objective(name: str, config: PhaseConfig | EvaluationConfig) -> Objective:
    """Return the objective `name` with the settings of a phase, or with those for held-out text."""
    if name == NextToken.name:
        return NextToken()
    assert name == MaskedLM.name, name
    return MaskedLM(config.mask_rate)


def phase_title(phase: str, objective: str) -> str:
    """Return a phase's name for people, followed by its objective unless that is masked LM."""
    return phase if objective == MaskedLM.name else f"{phase}, {OBJECTIVES[objective].title}"


def _choose(count: int, chosen: int, generator: np.random.Philox) -> tuple[Int64, Float64]:
    """Choose `chosen` of `count` uniformly, without replacement.

    The chosen indices have the smallest of `count` independent draws. Given the smallest draw that was not chosen,
    the draws below it are again independent and uniform, so the same numbers, scaled, decide the replacements.

    Returns:
        The chosen indices, ascending, and for each of them a number in [0, 1).
    """
    draws = generator.random_raw(-(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    if chosen == count:
        return np.arange(count), draws * 2.0**-32
    ordered = np.partition(draws, chosen)
    # Of equal draws the first ones are taken.
    indices = np.flatnonzero(draws <= ordered[:chosen].max())[:chosen]
    return indices, draws[indices] / max(1, int(ordered[chosen]))


def _replacements(original: Int32, draws: Float64, masking: Masking, generator: np.random.Philox) -> Int32:
    """Return what the model sees in place of the chosen tokens [num_targets], as `draws` in [0, 1) decide."""
    replaced = np.where(draws < masking.mask_fraction, np.int32(masking.mask_id), original)
    random = np.flatnonzero(
        (draws >= masking.mask_fraction) & (draws < masking.mask_fraction + masking.random_fraction)
    )
    # 32 random bits scaled to an integer below the count: a multiplication where a remainder would need a
    # division, and as even as 32 bits allow.
    which = (generator.random_raw(len(random)) >> _HALF) * np.uint64(len(masking.ordinary_ids)) >> _HALF
    replaced[random] = masking.ordinary_ids[which]
    return replaced
