"""What a run reads of each source, estimated before the first step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modernbert_train.config import Recipe, format_tokens
from modernbert_train.data.plan import PhaseRows
from modernbert_train.schedule import RunSchedule
from modernbert_train.store.lost_text import TextCounts, describe_text, lost_text_warning
from modernbert_train.store.manifest import Manifest

log = logging.getLogger(__name__)

_SAMPLED_SEQUENCES = 2  # the statistics are those of the first shuffle block of each


@dataclass(frozen=True)
class SourceStats:
    """What a phase, or the whole run, reads of one source."""

    share: float  # share of the content tokens
    tokens: int  # content tokens, without [CLS], [SEP] and padding
    epochs: float  # passes over the text of the source
    documents: int  # documents read; a repeated one counts each time


@dataclass(frozen=True)
class PhaseStats:
    """What a phase reads."""

    sources: dict[str, SourceStats]
    fill: float  # share of the token slots that are not padding


def phase_stats(schedule: RunSchedule, rows: Sequence[PhaseRows]) -> list[PhaseStats]:
    """Estimate what every phase reads from its first shuffle blocks. Skipped steps and documents are included."""
    return [_phase_stats(phase.num_tokens, part) for phase, part in zip(schedule.phases, rows, strict=True)]


def _phase_stats(num_slots: int, rows: PhaseRows) -> PhaseStats:
    plan = rows.plan
    shuffle_blocks = [
        plan.shuffle_block(sequence, 0) for sequence in range(min(_SAMPLED_SEQUENCES, plan.num_sequences))
    ]
    slots = sum(block.num_rows for block in shuffle_blocks) * plan.row_tokens
    used = sum(block.slots_used() for block in shuffle_blocks)
    content = num_slots * sum(int(block.piece_tokens.sum()) for block in shuffle_blocks) / slots
    sources = {}
    for name, share in plan.mixture.items():
        epochs = content * share / plan.sources[name].num_tokens
        documents = round(epochs * plan.sources[name].num_documents)
        sources[name] = SourceStats(share, round(content * share), epochs, documents)
    return PhaseStats(sources, fill=used / slots)


def whole_run(phases: Sequence[PhaseStats]) -> dict[str, SourceStats]:
    """Return the sums over all phases for each source."""
    total = sum(part.tokens for phase in phases for part in phase.sources.values())
    names = dict.fromkeys(name for phase in phases for name in phase.sources)
    run = {}
    for name in names:
        parts = [phase.sources[name] for phase in phases if name in phase.sources]
        tokens = sum(part.tokens for part in parts)
        epochs, documents = sum(part.epochs for part in parts), sum(part.documents for part in parts)
        run[name] = SourceStats(tokens / total, tokens, epochs, documents)
    return run


def repetitions(phases: Sequence[PhaseStats], warn_epochs: float) -> list[str]:
    """Return a warning for each source that the whole run reads more than `warn_epochs` times."""
    return [
        f"source {name} is repeated {part.epochs:.3g} times over the run (data.warn_epochs: {warn_epochs:g}); "
        "further repeats help little: lower its share or add data"
        for name, part in whole_run(phases).items()
        if part.epochs > warn_epochs
    ]


def texts_of(recipe: Recipe, manifests: Mapping[str, Manifest]) -> dict[str, TextCounts | None]:
    """Return what the tokenizer made of the text of each source of a recipe, None where that was not measured."""
    return {
        name: manifests[source.store].texts[source.source or name]
        for name, source in recipe.data.sources.items()
    }


def lost_text_warnings(texts: Mapping[str, TextCounts | None]) -> list[str]:
    """Return a warning for each source whose text the tokenizer loses."""
    warnings = (lost_text_warning(name, counts) for name, counts in texts.items())
    return [warning for warning in warnings if warning is not None]


def log_sources(
    schedule: RunSchedule,
    rows: Sequence[PhaseRows],
    warn_epochs: float,
    texts: Mapping[str, TextCounts | None],
    unhashed: Mapping[str, int],
) -> None:
    """Log what each phase reads and what is known of each source; warn of `repetitions` and lost text.

    Args:
        schedule: of the run.
        rows: what each phase reads.
        warn_epochs: number of repetitions of a source from which on it is warned of.
        texts: source -> what the tokenizer made of its text.
        unhashed: source -> number of its shards for which index.json has no hash.
    """
    stats = phase_stats(schedule, rows)
    for phase, phase_stat in zip(schedule.phases, stats, strict=True):
        parts = [
            f"{name} {part.share:.2%} ({format_tokens(part.tokens)} tokens, {part.epochs:.3g} epochs)"
            for name, part in phase_stat.sources.items()
        ]
        log.info("phase %s reads %s", phase.name, ", ".join(parts))
    for name, number in unhashed.items():
        if number:
            log.info(
                "index.json of %s has no hash of %s shards: damage in them may not be found",
                name,
                f"{number:,}",
            )
    for name, counts in texts.items():
        if counts is None or counts.share > 0:
            log.info("text of %s: %s", name, describe_text(counts))
    for warning in [*repetitions(stats, warn_epochs), *lost_text_warnings(texts)]:
        log.warning("WARNING: %s", warning)
