"""`--watch RUN`: evaluate each new checkpoint of a run while it trains, on another device or machine.

The watcher only reads the folder of the run, which is never stopped or locked. It appends a line to RUN/watch.jsonl for
each checkpoint, which the run itself does not touch:

    {"time": "2026-01-31T12:00:00Z", "kind": "evaluate", "step": 120, "tokens": 3932160, "phase": "pretrain",
     "objective": "mlm", "sha256": "...", "scores": {"web": {"loss": 5.1, "loss_error": 0.01, ...}}, "seconds": 12.3}

`kind` is `evaluate` (scores by source: loss, loss_error, accuracy, accuracy_error, perplexity, unigram_loss),
`bits_per_byte` (by source: bits_per_byte, bits_per_byte_error) or `probe` (by task: score, score_error, twin,
twin_error, difference, difference_error, layer). `sha256` is that of the checkpoint. `run_files.read_watch` reads the
file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modernbert_train.checkpoints.checkpoint import verify
from modernbert_train.checkpoints.info import CheckpointInfo, read_info
from modernbert_train.checkpoints.run_files import (
    RECIPE_FILE,
    WATCH_FILE,
    append_line,
    list_checkpoints,
    read_lines,
)
from modernbert_train.checkpoints.source import FailedCheck

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float | None]]
# Seconds between two looks at the folder.
_POLL_SECONDS = 10.0
IDLE_SECONDS = 6 * 3_600.0


@dataclass(frozen=True)
class WatchOptions:
    """What to watch, and until when."""

    run: Path
    # Tokens between checkpoints that are evaluated; ends of phases always are.
    every_tokens: int = 0
    # Watching ends after this many seconds without a new checkpoint.
    idle_seconds: float = IDLE_SECONDS


def watch(
    options: WatchOptions, kind: str, score: Callable[[Path], Scores], describe: Callable[[Scores], str]
) -> Iterator[str]:
    """Score the checkpoints of a run that have no line of this kind yet, oldest first, until the run has finished.

    Args:
        options: What to watch.
        kind: Of the lines.
        score: Returns the scores of a checkpoint file.
        describe: Returns scores as a text.

    Yields:
        A line for people about each checkpoint.

    Raises:
        ValueError: There is no such run, or a good checkpoint cannot be scored.
    """
    file = options.run / WATCH_FILE
    if not (options.run / RECIPE_FILE).is_file():
        raise ValueError(
            f"--watch {options.run}: no {RECIPE_FILE} in it; name the folder of a run that has started"
        )
    lines = [line for _, line in read_lines(file) if line.get("kind") == kind]
    done = {(line["step"], line.get("sha256")) for line in lines}
    scored_tokens = [line["tokens"] for line in lines if isinstance(line.get("tokens"), int)]
    damaged: set[Path] = set()
    since = time.monotonic()
    while True:
        is_finished = False
        for path in list_checkpoints(options.run):
            info = None if path in damaged else _info(path)
            if info is None:
                if path.exists():
                    damaged.add(path)
                continue
            is_last = info.total_tokens is not None and info.tokens >= info.total_tokens
            is_finished = is_last  # of the newest one: a run may have been given more tokens
            if (info.step, info.sha256) in done:
                continue
            done.add((info.step, info.sha256))
            since_scored = info.tokens - max(
                (tokens for tokens in scored_tokens if tokens <= info.tokens), default=-options.every_tokens
            )
            if since_scored < options.every_tokens and not (info.keep or is_last):
                continue
            since = time.monotonic()
            scores = _score(path, score)
            if scores is not None:
                scored_tokens.append(info.tokens)
                append_line(file, _record(kind, info, scores, time.monotonic() - since))
                yield f"step {info.step:,}, {info.tokens:,} tokens: {describe(scores)}"
            since = time.monotonic()
        if is_finished:
            return
        waited = time.monotonic() - since
        if waited >= options.idle_seconds:
            yield f"no new checkpoint for {waited:,.0f} seconds, and the run has not finished; stopped watching"
            return
        time.sleep(min(_POLL_SECONDS, options.idle_seconds - waited))


def _info(path: Path) -> CheckpointInfo | None:
    """Return the facts about a checkpoint; None if it was removed meanwhile, or cannot be read."""
    try:
        return read_info(path)
    except ValueError as error:
        if path.exists():
            log.error("CHECKPOINT SKIPPED: %s", error)
        return None


def _score(path: Path, score: Callable[[Path], Scores]) -> Scores | None:
    """Return the scores of a checkpoint; None if it is damaged, or was removed meanwhile, as old ones are.

    Raises:
        ValueError: It is a good checkpoint, but cannot be scored.
        OSError: The storage has failed.
    """
    try:
        return score(path)
    except (ValueError, OSError) as error:
        if not path.exists():
            log.info("%s was removed before it was evaluated", path)
            return None
        if isinstance(error, OSError) or not (isinstance(error, FailedCheck) or _is_damaged(path)):
            raise
        log.error("CHECKPOINT SKIPPED: %s", error)
        return None


def _is_damaged(path: Path) -> bool:
    try:
        verify(path)
    except ValueError:
        return True
    return False


def _record(kind: str, info: CheckpointInfo, scores: Scores, seconds: float) -> dict[str, object]:
    return {
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "kind": kind,
        "step": info.step,
        "tokens": info.tokens,
        "phase": info.phase,
        "objective": info.objective,
        "sha256": info.sha256,
        "scores": scores,
        "seconds": round(seconds, 1),
    }
