"""What each source contributes to a run, as far as it is known before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modernbert_train.config import format_tokens
from modernbert_train.schedule import RunSchedule

if TYPE_CHECKING:  # it imports torch, and a dry run needs none of that
    from modernbert_train.data.plan import PhaseRows

log = logging.getLogger(__name__)

_STREAMS_LOOKED_AT = 2  # for the fill: one shuffle block of each


@dataclass(frozen=True)
class Contribution:
    """What a phase, or the run, reads of one source."""

    share: float  # of the content tokens
    tokens: int  # content tokens: neither [CLS] nor [SEP] nor padding
    epochs: float  # how many times its text is gone through
    documents: int  # a document that is read again counts again


@dataclass(frozen=True)
class PhaseData:
    """What a phase reads, as the stores tell it."""

    sources: dict[str, Contribution]
    fill: float  # share of the slots of the rows that hold a token


def phase_data(plan: RunSchedule, rows: Sequence[PhaseRows]) -> list[PhaseData]:
    """The contributions of every phase, by the lengths of the documents in the first shuffle blocks. Skipped steps and
    documents are not taken off.
    """
    return [_of_phase(phase.num_tokens, of_phase) for phase, of_phase in zip(plan.phases, rows, strict=True)]


def _of_phase(num_slots: int, rows: PhaseRows) -> PhaseData:
    plan = rows.plan
    shuffle_blocks = [
        plan.shuffle_block(stream, 0) for stream in range(min(_STREAMS_LOOKED_AT, plan.num_streams))
    ]
    slots = sum(block.num_rows for block in shuffle_blocks) * plan.row_tokens
    used = sum(block.slots_used() for block in shuffle_blocks)
    content = num_slots * sum(int(block.piece_tokens.sum()) for block in shuffle_blocks) / slots
    sources = {}
    for name, share in plan.mixture.items():
        epochs = content * share / plan.sources[name].num_tokens
        documents = round(epochs * plan.sources[name].num_documents)
        sources[name] = Contribution(share, round(content * share), epochs, documents)
    return PhaseData(sources, fill=used / slots)


def whole_run(phases: Sequence[PhaseData]) -> dict[str, Contribution]:
    """Source -> what it contributes to all phases together."""
    total = sum(part.tokens for phase in phases for part in phase.sources.values())
    names = dict.fromkeys(name for phase in phases for name in phase.sources)
    run = {}
    for name in names:
        parts = [phase.sources[name] for phase in phases if name in phase.sources]
        tokens = sum(part.tokens for part in parts)
        epochs, documents = sum(part.epochs for part in parts), sum(part.documents for part in parts)
        run[name] = Contribution(tokens / total, tokens, epochs, documents)
    return run


def repetitions(phases: Sequence[PhaseData], warn_epochs: float) -> list[str]:
    """A warning for each source whose text is gone through more often than that over the whole run."""
    return [
        f"the text of {name} is gone through {part.epochs:.3g} times over the run, more than {warn_epochs:g} "
        "(data.warn_epochs); what it teaches wears off: lower its share, or add text"
        for name, part in whole_run(phases).items()
        if part.epochs > warn_epochs
    ]


def log_sources(plan: RunSchedule, rows: Sequence[PhaseRows], warn_epochs: float) -> None:
    """Say what each phase reads, and warn of `repetitions`."""
    data = phase_data(plan, rows)
    for phase, of_phase in zip(plan.phases, data, strict=True):
        parts = [
            f"{name} {part.share:.2%} ({format_tokens(part.tokens)} tokens, {part.epochs:.3g} epochs)"
            for name, part in of_phase.sources.items()
        ]
        log.info("phase %s reads %s", phase.name, ", ".join(parts))
    for warning in repetitions(data, warn_epochs):
        log.warning("WARNING: %s", warning)
