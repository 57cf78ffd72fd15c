"""`modernbert plan RECIPE --step N`: the documents that were, or will be, in the batch of a step.

Packs the rows of the step again from the lengths of the documents, and finds each piece in its store.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm.auto import tqdm

from modernbert_train.checkpoints.run_files import POSITIONS_FILE, read_lines
from modernbert_train.config import Recipe
from modernbert_train.data.inputs import Inputs, open_inputs, plan_rows
from modernbert_train.data.plan import (
    PhaseRows,
    Plan,
    Position,
    ShuffleBlock,
    StreamPositions,
    fingerprint_at,
)
from modernbert_train.data.skip import is_skipped
from modernbert_train.schedule import RunSchedule, build_schedule
from modernbert_train.store.mds import read_shards
from modernbert_train.store.split import Split

log = logging.getLogger(__name__)

# Packed in seconds, so that starting processes does not pay.
_QUICK_TOKENS = 10**9
# Most characters of a text in the table.
_TEXT_CHARACTERS = 160


@dataclass(frozen=True)
class Piece:
    """A piece of a row and its place in the store. All numbers count from 0."""

    stream: int
    shuffle_block: int
    # Within the shuffle block.
    row: int
    source: str
    # Number within the source's training split, as in `data.skip.documents`.
    document: int
    shard: int
    # SOURCE/SPLIT/FILE in the store; a full path or URL for shards outside it.
    file: str
    document_in_shard: int
    # First content token, counted from the beginning of the document.
    start: int
    # Content tokens.
    tokens: int
    # The sample of the store that holds the document.
    block: int
    # First content token, counted from the beginning of the block.
    start_in_block: int


@dataclass(frozen=True)
class StepContents:
    """The batch of a step. Steps count from 1, as in the logs."""

    step: int
    total_steps: int
    phase: str
    rows: int
    # Whether data.skip.steps skips the step.
    skipped: bool
    # In the order of the batch.
    pieces: list[Piece]
    # Whether data.skip.documents skips the document of each piece.
    skipped_pieces: list[bool]
    # Decoded text of each piece, if asked for.
    texts: list[str] | None


def step_contents(recipe: Recipe, step: int, workers: int = 1, with_text: bool = False) -> StepContents:
    """Find the documents of a step.

    Rows are counted from the positions of the last checkpoint before the step if the run folder has them, otherwise
    from the start of the phase, which packs the rows of all steps in between.

    Args:
        recipe: The recipe of the run.
        step: Counted from 1.
        workers: Processes that pack rows.
        with_text: Decode the pieces, which reads the shards.

    Returns:
        The pieces of the step and their places in the stores.

    Raises:
        ValueError: The run has no such step, or its stores and tokenizer do not fit together.
    """
    schedule = build_schedule(recipe)
    if not 1 <= step <= schedule.total_steps:
        raise ValueError(
            f"--step is {step}: the run has the steps 1 to {schedule.total_steps}, counted as in the logs"
        )
    inputs = open_inputs(recipe)
    with closing(inputs.reader):
        pieces = _find(recipe, schedule, inputs, step - 1, workers)
        texts = _decode(inputs, pieces) if with_text else None
    return StepContents(
        step=step,
        total_steps=schedule.total_steps,
        phase=schedule.phase_of(step - 1).name,
        rows=schedule.batch_rows(step - 1),
        skipped=any(step - 1 in part for part in schedule.skipped),
        pieces=pieces,
        skipped_pieces=[
            is_skipped(inputs.skipped_documents, piece.source, piece.document) for piece in pieces
        ],
        texts=texts,
    )


def _find(recipe: Recipe, schedule: RunSchedule, inputs: Inputs, step: int, workers: int) -> list[Piece]:
    """Return the pieces of a step, counted from 0, in the order of the batch."""
    phase = schedule.phase_of(step)
    phases = plan_rows(recipe, schedule, inputs)
    plan = phases[phase.index].plan
    start, positions = _nearest_positions(Path(recipe.run_folder), schedule, phases, inputs, step)
    before = phase.rows_before(step - phase.first_step) - phase.rows_before(start - phase.first_step)
    find = partial(
        _of_stream, plan, positions, before // plan.num_streams, phase.batch_rows(step - phase.first_step)
    )
    if before * plan.row_tokens < _QUICK_TOKENS or workers == 1:
        return [piece for stream in _shown(map(find, range(plan.num_streams)), plan) for piece in stream]
    # A fork would copy the reader in the middle of what its threads are doing.
    context = get_context("spawn")
    # Each chunk sends the plan to a process once, and the plan caches where it is in the orders of the sources.
    chunk = math.ceil(plan.num_streams / workers / 8)
    with ProcessPoolExecutor(min(workers, plan.num_streams), context) as pool:
        found = pool.map(find, range(plan.num_streams), chunksize=chunk)
        return [piece for stream in _shown(found, plan) for piece in stream]


def _of_stream(
    plan: Plan, positions: StreamPositions, passed_over: int, batch_rows: int, stream: int
) -> list[Piece]:
    position = positions.get(stream, (0, 0))
    return pieces_of_stream(plan, stream, position, passed_over, batch_rows // plan.num_streams)


def pieces_of_stream(
    plan: Plan, stream: int, position: Position, passed_over: int, num_rows: int
) -> list[Piece]:
    """Return the pieces of `num_rows` rows of a stream, in the order of the batch.

    Args:
        plan: The plan of the phase.
        stream: Number of the stream.
        position: The position of the stream before some step.
        passed_over: Rows of the stream between the position and the first row.
        num_rows: Rows of the stream in the step.

    Returns:
        The pieces, row by row.
    """
    sequence, number = divmod(stream, plan.streams_per_sequence)
    rows_before = plan.streams_per_sequence * passed_over + number * num_rows
    position = plan.advance(sequence, position, rows_before)
    pieces: list[Piece] = []
    for _ in range(num_rows):
        index, row = position = plan.advance(sequence, position, 1)
        pieces += _pieces_of_row(plan, stream, index, plan.shuffle_block(sequence, index), row - 1)
    return pieces


def _pieces_of_row(
    plan: Plan, stream: int, index: int, shuffle_block: ShuffleBlock, row: int
) -> Iterator[Piece]:
    for piece in range(*shuffle_block.pieces(row).indices(len(shuffle_block.piece_tokens))):
        source, block = shuffle_block.blocks[shuffle_block.piece_block[piece]]
        split, document = plan.sources[source], int(shuffle_block.piece_document[piece])
        start_in_block = int(shuffle_block.piece_start[piece])
        shard = split.shard_of(block)
        yield Piece(
            stream=stream,
            shuffle_block=index,
            row=row,
            source=source,
            document=document,
            shard=shard,
            file=_shard_files(split.path, split.remote)[shard],
            document_in_shard=document - int(split.first_of_shards[shard, 1]),
            start=start_in_block - _start_in_block(split, block, document),
            tokens=int(shuffle_block.piece_tokens[piece]),
            block=block,
            start_in_block=start_in_block,
        )


def _start_in_block(split: Split, block: int, document: int) -> int:
    """Return the first token of a document, counted from the beginning of its block."""
    first_document = split.first_document(block)
    return int(split.lengths(first_document, document - first_document).sum())


@cache
def _shard_files(folder: Path, remote: str | None) -> list[str]:
    """Return the file of each shard of a split: SOURCE/SPLIT/FILE in the store, or below the place it is read from."""
    names = [(shard.compressed or shard.raw).basename for shard in read_shards(folder)]
    location = remote or "/".join(folder.parts[-2:])
    return [f"{location}/{name}" for name in names]


def _shown(found: Iterator[list[Piece]], plan: Plan) -> Iterator[list[Piece]]:
    return iter(tqdm(found, total=plan.num_streams, unit=" streams", leave=False, disable=None))


def _nearest_positions(
    run: Path, schedule: RunSchedule, phases: list[PhaseRows], inputs: Inputs, step: int
) -> tuple[int, StreamPositions]:
    """Return the last step up to `step` of its phase with known positions, and these; the first step without any."""
    phase = schedule.phase_of(step)
    nearest, positions = phase.first_step, StreamPositions()
    path = run / POSITIONS_FILE
    for _, line in read_lines(path):
        if not nearest < line["step"] <= step:
            continue
        found = _positions(line)
        if found and line.get("fingerprint") == fingerprint_at(phases, line["step"], inputs.masking):
            nearest, positions = line["step"], found
    where = f"step {nearest} ({path})" if positions else f"the start of the phase {phase.name}"
    log.info("counting rows from %s on", where)
    return nearest, positions


def _positions(line: dict[str, Any]) -> StreamPositions:
    """Return the position of each stream in a line of positions.jsonl, nothing if the line is damaged."""
    try:
        return {stream: (int(index), int(row)) for stream, (index, row) in enumerate(line["positions"])}
    except (KeyError, TypeError, ValueError):
        return {}


def _decode(inputs: Inputs, pieces: list[Piece]) -> list[str]:
    tokenizer = Tokenizer.from_file(str(inputs.tokenizer.path / "tokenizer.json"))
    texts = []
    for piece in pieces:
        block = inputs.reader.read(inputs.train[piece.source], piece.block)
        ids = block[piece.start_in_block :][: piece.tokens].tolist()
        texts.append(tokenizer.decode(ids, skip_special_tokens=False))
    return texts


def to_json(found: StepContents) -> str:
    """Return one JSON object; `name` is what `data.skip.documents` takes."""
    pieces: list[dict[str, Any]] = []
    for number, piece in enumerate(found.pieces):
        fields = {
            **dataclasses.asdict(piece),
            "skipped": found.skipped or found.skipped_pieces[number],
            **({"text": found.texts[number]} if found.texts is not None else {}),
        }
        pieces.append({"name": f"{piece.source}:{piece.document}", **fields})
    head = {key: getattr(found, key) for key in ("step", "total_steps", "phase", "rows", "skipped")}
    return json.dumps({**head, "pieces": pieces}, ensure_ascii=False)


def to_text(found: StepContents) -> str:
    """Return a summary by source and a line for each piece."""
    tokens: Counter[str] = Counter()
    for piece in found.pieces:
        tokens[piece.source] += piece.tokens
    documents = len({(piece.source, piece.document) for piece in found.pieces})
    lines = [
        f"step {found.step:,} of {found.total_steps:,}, phase {found.phase}: {found.rows:,} rows, "
        f"{len(found.pieces):,} pieces of {documents:,} documents"
        + (" (skipped by data.skip.steps: not trained on)" if found.skipped else ""),
        *(
            f"  {source:<20}{count / tokens.total():>8.2%}{count:>14,} tokens"
            for source, count in tokens.items()
        ),
        "",
        f"{'stream':>6}{'shuffle block':>15}{'row':>7}  {'document':<28}{'from':>8}{'tokens':>8}{'in shard':>10}  file",
    ]
    for number, piece in enumerate(found.pieces):
        lines.append(
            f"{piece.stream:>6}{piece.shuffle_block:>15}{piece.row:>7}  {f'{piece.source}:{piece.document}':<28}"
            f"{piece.start:>8,}{piece.tokens:>8,}{piece.document_in_shard:>10,}  {piece.file}"
            + (" (skipped)" if found.skipped_pieces[number] else "")
        )
        if found.texts is not None:
            text = " ".join(found.texts[number].split())
            lines.append(
                "        " + (text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…")
            )
    return "\n".join(lines)
