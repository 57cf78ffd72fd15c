"""`modernbert evaluate`: the text, the models and the tables that its options ask for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modernbert_train.checkpoints.run_files import EVALUATION_FILE
from modernbert_train.checkpoints.source import WeightSource
from modernbert_train.common.files import write_atomically
from modernbert_train.common.text import without_breaks
from modernbert_train.config import load_recipe
from modernbert_train.evaluation.held_out import RawText, StoreText, read_raw_text
from modernbert_train.evaluation.long_context import compare_beyond, find_limit, write_picture
from modernbert_train.evaluation.masked_lm import SourceScore, choose_context, own_recipe, score_models
from modernbert_train.evaluation.models import EvaluatedModel, open_model
from modernbert_train.evaluation.tables import (
    format_buckets,
    format_gains,
    format_scores,
    format_words,
    numbers,
    numbers_of,
    source_numbers,
    word_numbers,
)
from modernbert_train.evaluation.targets import EDGES
from modernbert_train.evaluation.watch import Scores, WatchOptions, watch
from modernbert_train.evaluation.words import score_words

log = logging.getLogger(__name__)

MAX_DOCUMENTS = 500
# For bits per byte, which take a forward pass for each rank of pieces.
MAX_DOCUMENTS_OF_WORDS = 100
# A piece of fewer tokens has hardly a word beside the masked ones.
_LEAST_CONTEXT = 8


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of the command; None where the user leaves one out."""

    recipe: str | None = None
    # NAME=PATTERN for each source of raw text; empty: the text of the recipe.
    text: Sequence[str] = ()
    text_field: str | None = None
    max_documents: int | None = None
    max_tokens: int | None = None
    context_tokens: int | None = None
    lengths: bool = False
    # Position beyond which the first of two models is compared with the second.
    beyond: int | None = None
    picture: str | None = None
    bits_per_byte: bool = False
    device: str = "auto"
    # File for the numbers.
    json: str | None = None


def evaluate(targets: Sequence[str | Path], options: EvaluateOptions | None = None) -> str:
    """Score models on held-out text.

    The scores of a run, on the text of its own recipe, are also written to its evaluation.json, for the model card.

    Args:
        targets: Run folders, checkpoints or Hugging Face folders.
        options: Of the command.

    Returns:
        Text tables.

    Raises:
        ValueError: Options or models do not fit together, or a model or its text cannot be read.
    """
    options = options or EvaluateOptions()
    check_options(options)
    models = [open_model(target) for target in targets]
    if len({model.name for model in models}) < len(models):
        raise ValueError("a model is named twice; name each once")
    limit = find_limit(models, options.beyond) if options.lengths else None
    texts = _read_texts(options)
    if options.bits_per_byte:
        assert texts is not None
        context = choose_context(models, wanted=options.context_tokens)
        words = score_words(models, texts, context_tokens=context, device=options.device)
        tables, found = [format_words(words)], word_numbers(words)
    else:
        tables, found = _evaluate_tokens(models, texts, options, limit)
    if options.json is not None:
        write_atomically(Path(options.json), json.dumps(found, indent=1) + "\n")
    return "\n\n".join(tables)


def _read_texts(options: EvaluateOptions) -> dict[str, list[str]] | None:
    if not options.text:
        return None
    default = MAX_DOCUMENTS_OF_WORDS if options.bits_per_byte else MAX_DOCUMENTS
    return read_raw_text(options.text, options.text_field or "text", options.max_documents or default)


def _store_text(run: Path, options: EvaluateOptions) -> StoreText:
    """Return the text of the recipe that the user names, or of that of a run."""
    recipe = own_recipe(run) if options.recipe is None else load_recipe(options.recipe)
    return StoreText(recipe, options.max_tokens)


def _evaluate_tokens(
    models: Sequence[EvaluatedModel],
    texts: dict[str, list[str]] | None,
    options: EvaluateOptions,
    limit: int | None,
) -> tuple[list[str], dict[str, Any]]:
    """Return the tables and the numbers of predicted tokens."""
    text = RawText(texts) if texts is not None else _store_text(models[0].folder, options)
    of_recipe = text.context_tokens if isinstance(text, StoreText) else None
    context = choose_context(models, of_recipe, wanted=options.context_tokens, longest=options.lengths)
    with closing(text):
        scores = score_models(models, text, context, device=options.device)
    tables = [format_scores(scores)]
    gains = []
    if options.lengths:
        tables.append(format_buckets(scores))
        if limit is not None:
            first, second = ([score for score in scores if score.model == model.name] for model in models)
            gains = compare_beyond(first, second, limit)
            tables.append(format_gains(gains) if gains else _too_short(limit))
        if options.picture is not None:
            write_picture(Path(options.picture), scores, gains)
            tables.append(f"picture: {options.picture}")
    source = models[0].source
    if len(models) == 1 and source is not None and not _changes_text(options):
        _write_scores(source, scores)
    found = {"context_tokens": context, **numbers(scores, with_buckets=options.lengths, gains=gains)}
    return tables, found


def watch_evaluation(watched: WatchOptions, options: EvaluateOptions | None = None) -> Iterator[str]:
    """Score each new checkpoint of a run, see `watch`.

    Args:
        watched: The run.
        options: Of the command.

    Yields:
        A line for people about each checkpoint.

    Raises:
        ValueError: Options do not fit together, or the text cannot be read.
    """
    options = options or EvaluateOptions()
    check_options(options)
    not_watched = (("--lengths", options.lengths), ("--json", options.json))
    for option, is_given in not_watched:
        if is_given:
            raise ValueError(
                f"{option} has no effect with --watch; evaluate a checkpoint by its path for that"
            )
    texts = _read_texts(options)
    text = RawText(texts) if texts is not None else _store_text(watched.run, options)
    of_recipe = text.context_tokens if isinstance(text, StoreText) else None

    def score_tokens(checkpoint: Path) -> Scores:
        models = [open_model(checkpoint)]
        context = choose_context(models, of_recipe, wanted=options.context_tokens)
        scores = score_models(models, text, context, device=options.device)
        return {score.source: source_numbers(score) for score in scores}

    def score_bytes(checkpoint: Path) -> Scores:
        assert texts is not None
        models = [open_model(checkpoint)]
        context = choose_context(models, wanted=options.context_tokens)
        scores = score_words(models, texts, context_tokens=context, device=options.device)
        return {score.source: numbers_of("bits_per_byte", score.bits_per_byte) for score in scores}

    main, kind, score = "loss", "evaluate", score_tokens
    if options.bits_per_byte:
        main, kind, score = "bits_per_byte", "bits_per_byte", score_bytes
    with closing(text):
        yield from watch(watched, kind, score, partial(_describe, main=main))


def _describe(scores: Scores, main: str) -> str:
    return ", ".join(f"{source} {of_source[main]:.3f}" for source, of_source in scores.items())


def check_options(options: EvaluateOptions) -> None:
    """Check that the options fit together.

    Raises:
        ValueError: One has no effect beside the others, or has a value out of range.
    """
    needs = (
        ("--text-field", options.text_field, "--text", options.text),
        ("--max-documents", options.max_documents, "--text", options.text),
        ("--bits-per-byte", options.bits_per_byte, "--text", options.text),
        ("--beyond", options.beyond, "--lengths", options.lengths),
        ("--picture", options.picture, "--lengths", options.lengths),
    )
    for option, is_given, other, is_other_given in needs:
        if is_given and not is_other_given:
            raise ValueError(f"{option} has an effect only with {other}; add it, or leave {option} out")
    excludes = (
        ("--recipe", options.recipe, "--text", options.text),
        ("--max-tokens", options.max_tokens, "--text", options.text),
        ("--lengths", options.lengths, "--bits-per-byte", options.bits_per_byte),
    )
    for option, is_given, other, is_other_given in excludes:
        if is_given and is_other_given:
            raise ValueError(f"{option} has no effect with {other}; leave one of them out")
    if options.context_tokens is not None and options.context_tokens < _LEAST_CONTEXT:
        raise ValueError(f"--context-tokens is {options.context_tokens}, must be at least {_LEAST_CONTEXT}")
    if options.beyond is not None and options.beyond >= (options.context_tokens or EDGES[-1]):
        raise ValueError(
            f"--beyond is {options.beyond:,}, and no document is longer than "
            f"{options.context_tokens or EDGES[-1]:,} tokens; lower it, or raise --context-tokens"
        )
    for option, file in (("--json", options.json), ("--picture", options.picture)):
        if file is not None and not Path(file).parent.is_dir():
            raise ValueError(
                f"{option}: {without_breaks(file)}: its folder does not exist; make it, or name another file"
            )


def _changes_text(options: EvaluateOptions) -> bool:
    """Check whether something else is read than the text of the run's own recipe, as during training."""
    changes = (options.recipe, options.text, options.max_tokens, options.context_tokens, options.lengths)
    return any(changes)


def _too_short(limit: int) -> str:
    return (
        f"no source has two documents with targets up to and beyond {limit:,} tokens, so what the models gain from "
        "longer context cannot be compared; name longer text, or raise --context-tokens"
    )


def _write_scores(source: WeightSource, scores: Sequence[SourceScore]) -> None:
    record = {
        "step": source.info.step,
        "sha256": source.info.sha256,
        "objective": source.info.objective,
        "eval": {score.source: source_numbers(score) for score in scores},
    }
    file = source.folder / EVALUATION_FILE
    try:
        write_atomically(file, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        log.warning("%s cannot be written, so a model card will lack the unigram baseline: %s", file, error)
