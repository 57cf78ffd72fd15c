"""`modernbert batch RECIPE --step N`: which documents were, or will be, in the batch of a step."""

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
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm.auto import tqdm

from modernbert_train.checkpoints.run_files import POSITIONS_FILE, read_lines
from modernbert_train.config import Recipe
from modernbert_train.data.contents import Piece, contents
from modernbert_train.data.inputs import Inputs, open_inputs, plan_rows
from modernbert_train.data.plan import PhaseRows, Plan, StreamPositions, fingerprint_at
from modernbert_train.data.skip import is_skipped
from modernbert_train.schedule import RunSchedule, build_schedule

log = logging.getLogger(__name__)

_QUICK_TOKENS = 10**9  # walked in seconds: not worth the start of processes
_TEXT_CHARACTERS = 160  # of a text in the table


@dataclass(frozen=True)
class StepContents:
    """What is in the batch of a step. Steps count from 1, as in the logs."""

    step: int
    total_steps: int
    phase: str
    rows: int
    skipped: bool  # the step, by data.skip.steps
    pieces: list[Piece]  # in the order of the batch
    skipped_pieces: list[bool]  # by data.skip.documents
    texts: list[str] | None


def step_contents(recipe: Recipe, step: int, workers: int = 1, with_text: bool = False) -> StepContents:
    """Find the documents of a step.

    From the nearest checkpoint's positions before it, where the run folder has them, else from the start of the
    phase: then the rows of all steps before are packed once more, by `workers` processes.

    ValueError: the run has no such step; its stores or tokenizer do not fit.
    """
    plan = build_schedule(recipe)
    if not 1 <= step <= plan.total_steps:
        raise ValueError(
            f"--step is {step}: the run has the steps 1 to {plan.total_steps}, counted as in the logs"
        )
    inputs = open_inputs(recipe)
    with closing(inputs.reader):
        pieces = _find(recipe, plan, inputs, step - 1, workers)
        texts = _decode(inputs, pieces) if with_text else None
    return StepContents(
        step=step,
        total_steps=plan.total_steps,
        phase=plan.phase_of(step - 1).name,
        rows=plan.batch_rows(step - 1),
        skipped=any(step - 1 in part for part in plan.skipped),
        pieces=pieces,
        skipped_pieces=[
            is_skipped(inputs.skipped_documents, piece.source, piece.document) for piece in pieces
        ],
        texts=texts,
    )


def _find(recipe: Recipe, run_plan: RunSchedule, inputs: Inputs, step: int, workers: int) -> list[Piece]:
    """The pieces of a step, counted from 0, in the order of the batch."""
    phase = run_plan.phase_of(step)
    phases = plan_rows(recipe, run_plan, inputs)
    plan = phases[phase.index].plan
    start, positions = _nearest(Path(recipe.run_folder), run_plan, phases, inputs, step)
    before = phase.rows_before(step - phase.first_step) - phase.rows_before(start - phase.first_step)
    find = partial(
        _of_stream, plan, positions, before // plan.num_streams, phase.batch_rows(step - phase.first_step)
    )
    if before * plan.row_tokens < _QUICK_TOKENS or workers == 1:
        return [piece for stream in _shown(map(find, range(plan.num_streams)), plan) for piece in stream]
    context = get_context("spawn")  # the reader has threads and shared memory, which a fork would copy
    chunk = math.ceil(
        plan.num_streams / workers / 8
    )  # the plan travels once with each: it remembers where it was
    with ProcessPoolExecutor(min(workers, plan.num_streams), context) as pool:
        found = pool.map(find, range(plan.num_streams), chunksize=chunk)
        return [piece for stream in _shown(found, plan) for piece in stream]


def _of_stream(
    plan: Plan, positions: StreamPositions, passed_over: int, batch_rows: int, stream: int
) -> list[Piece]:
    return contents(plan, stream, positions.get(stream, (0, 0)), passed_over, batch_rows // plan.num_streams)


def _shown(found: Iterator[list[Piece]], plan: Plan) -> Iterator[list[Piece]]:
    return iter(tqdm(found, total=plan.num_streams, unit=" streams", leave=False, disable=None))


def _nearest(
    run: Path, plan: RunSchedule, phases: list[PhaseRows], inputs: Inputs, step: int
) -> tuple[int, StreamPositions]:
    """The last step up to `step`, in its phase, after which the positions of the streams are known; and these."""
    first = plan.phase_of(step).first_step
    nearest, positions = first, StreamPositions()
    path = run / POSITIONS_FILE
    for _, line in read_lines(path) if path.is_file() else ():
        if not nearest < line["step"] <= step:
            continue
        if line["fingerprint"] == fingerprint_at(phases, line["step"], inputs.masking):
            nearest = line["step"]
            positions = {stream: (window, row) for stream, (window, row) in enumerate(line["positions"])}
    where = f"step {nearest} ({path})" if positions else f"the start of the phase {plan.phase_of(step).name}"
    log.info("counting rows from %s on", where)
    return nearest, positions


def _decode(inputs: Inputs, pieces: list[Piece]) -> list[str]:
    tokenizer = Tokenizer.from_file(str(inputs.tokenizer.path / "tokenizer.json"))
    texts = []
    for piece in pieces:
        ids = inputs.reader.read(inputs.train[piece.source], piece.block)[piece.start_in_block :][
            : piece.tokens
        ]
        texts.append(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
    return texts


def to_json(found: StepContents) -> str:
    """One JSON object; `document` as `data.skip.documents` takes it."""
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
    """A summary by source, and a line for each piece."""
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
        f"{'stream':>6}{'window':>8}{'row':>7}  {'document':<28}{'from':>8}{'tokens':>8}{'in shard':>10}  file",
    ]
    for number, piece in enumerate(found.pieces):
        lines.append(
            f"{piece.stream:>6}{piece.window:>8}{piece.row:>7}  {f'{piece.source}:{piece.document}':<28}"
            f"{piece.start:>8,}{piece.tokens:>8,}{piece.document_in_shard:>10,}  {piece.file}"
            + (" (skipped)" if found.skipped_pieces[number] else "")
        )
        if found.texts is not None:
            text = " ".join(found.texts[number].split())
            lines.append(
                "        " + (text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…")
            )
    return "\n".join(lines)
