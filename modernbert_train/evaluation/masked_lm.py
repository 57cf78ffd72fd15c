"""Masked-LM loss and accuracy by source on held-out text, beside what token frequencies alone would reach.

The masks are fixed, so two models that are given the same recipe answer the same questions. A run or
checkpoint is computed by our encoder on packed rows; a Hugging Face folder by Transformers on the same
documents padded, which makes its scores a check of the export too. A checkpoint that was last trained with the
objective clm is asked for the next token instead.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from modernbert_train.checkpoints.checkpoint import load_weights, run_folder_of
from modernbert_train.checkpoints.run_files import RECIPE_FILE
from modernbert_train.common.text import format_table
from modernbert_train.config import Recipe, load_recipe
from modernbert_train.config.schema import ObjectiveName
from modernbert_train.data.batch import MicroBatch
from modernbert_train.data.inputs import Inputs, open_inputs
from modernbert_train.data.reader import evaluation_batches
from modernbert_train.evaluation.scorers import Scorer, our_scorer, transformers_scorer
from modernbert_train.evaluation.unigram import UnigramScore, count_tokens, score_unigram
from modernbert_train.objectives import IGNORE_INDEX, OBJECTIVES, build_objective
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceScore:
    """Scores of one source's held-out text. Losses in nats per target."""

    source: str
    num_tokens: int  # [CLS] and [SEP] included
    num_targets: int
    loss: float
    accuracy: float
    unigram: UnigramScore
    objective: ObjectiveName = "mlm"

    @property
    def gain(self) -> float:
        """Nats per target below the unigram loss."""
        return self.unigram.loss - self.loss

    @property
    def accuracy_ratio(self) -> float:
        """Accuracy over that of the most frequent token; infinite where that is never right."""
        return self.accuracy / self.unigram.accuracy if self.unigram.accuracy > 0 else float("inf")


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    scorer: Scorer
    tokenizer: TokenizerInfo
    context_tokens: int  # longest document it was trained on
    objective: ObjectiveName = "mlm"  # that it was last trained with


def evaluate(target: str | Path, recipe_path: str | Path | None = None) -> str:
    """`evaluate_masked_lm` as a text table; the recipe by its path."""
    recipe = None if recipe_path is None else load_recipe(recipe_path)
    return format_scores(evaluate_masked_lm(target, recipe))


def evaluate_masked_lm(
    target: str | Path, recipe: Recipe | None = None, *, device: str = "auto", progress_bar: bool = True
) -> list[SourceScore]:
    """Score a run folder, a checkpoint or a Hugging Face folder on each source that has held-out text.

    `recipe` says which text (and how much, and the mask rate); left out, it is the one stored with the run.
    ValueError: nothing there to evaluate, no recipe, another tokenizer than the store's, no held-out text.
    """
    target = Path(target)
    recipe = recipe or _recipe_of(target)
    subject = _load(target, torch.device(_device(device)))
    # The text must have been tokenized with the model's own tokenizer, wherever a copy of it lies.
    data = dataclasses.replace(recipe.data, tokenizer=str(subject.tokenizer.path))
    inputs = open_inputs(dataclasses.replace(recipe, data=data))
    for source in inputs.train.keys() - inputs.valid.keys():
        log.warning("%s has no held-out text in its store: left out", source)
    if not inputs.valid:
        raise ValueError(
            f"{target}: no source of {recipe.name} has held-out text; tokenize with --valid-fraction above 0"
        )
    with closing(inputs.reader):
        return [score_source(source, inputs, subject, recipe, progress_bar) for source in inputs.valid]


def score_source(
    source: str, inputs: Inputs, subject: Subject, recipe: Recipe, progress_bar: bool
) -> SourceScore:
    """The model on masked tokens of held-out text; on the same tokens, the frequencies of the training text."""
    loss_sum, num_correct, num_tokens = 0.0, 0, 0
    labels = []
    batches = _batches(source, inputs, subject, recipe)
    for batch in tqdm(batches, desc=source, unit="row", leave=False, disable=None if progress_bar else True):
        batch_loss, batch_correct = subject.scorer(batch)
        loss_sum, num_correct, num_tokens = (
            loss_sum + batch_loss,
            num_correct + batch_correct,
            num_tokens + batch["num_tokens"],
        )
        labels.append(batch["labels"][batch["labels"] != IGNORE_INDEX].numpy())
    masked = np.concatenate(labels)
    if len(masked) == 0:
        raise ValueError(
            f"{source}: no token of its held-out text was masked; raise evaluation.max_rows or mask_rate"
        )
    counts = count_tokens(
        source, inputs.train[source], inputs.reader, subject.tokenizer.num_ids, progress_bar
    )
    # Never masked, and in no store: where the next token is asked for, [SEP] is as frequent as in the answers.
    num_ends = int((masked == subject.tokenizer.sep_id).sum())
    counts[subject.tokenizer.sep_id] += counts.sum() * num_ends // max(1, len(masked) - num_ends)
    return SourceScore(
        source=source,
        num_tokens=num_tokens,
        num_targets=len(masked),
        loss=loss_sum / len(masked),
        accuracy=num_correct / len(masked),
        unigram=score_unigram(counts, masked),
        objective=subject.objective,
    )


def format_scores(scores: list[SourceScore]) -> str:
    """The scores as a text table."""
    asked = OBJECTIVES[scores[0].objective].title
    columns = ("source", "tokens", asked, "loss", "unigram", "below", "accuracy", "most frequent", "ratio")
    rows = [
        (
            s.source, f"{s.num_tokens:,}", f"{s.num_targets:,}",
            f"{s.loss:.3f}", f"{s.unigram.loss:.3f}", f"{s.gain:.3f}",
            f"{s.accuracy:.1%}", f"{s.unigram.accuracy:.1%}", f"x{s.accuracy_ratio:.1f}",
        )
        for s in scores
    ]  # fmt: skip
    return format_table(columns, rows)


def _batches(source: str, inputs: Inputs, subject: Subject, recipe: Recipe) -> Iterator[MicroBatch]:
    """The last phase's rows, so that the checkpoints of a run and its exports are asked the same."""
    phase = list(recipe.phases.values())[-1]
    return evaluation_batches(
        source,
        inputs,
        build_objective(subject.objective, recipe.evaluation),
        context_tokens=min(phase.context_tokens, subject.context_tokens),
        row_tokens=phase.row_tokens,
        max_rows=recipe.evaluation.max_rows,
    )


def _load(target: Path, device: torch.device) -> Subject:
    if (target / "config.json").is_file():
        return Subject(
            transformers_scorer(target, device), load_tokenizer_info(target), _hf_context_tokens(target)
        )
    state_dict, info = load_weights(target)
    tokenizer = load_tokenizer_info(_run_folder(target))
    return Subject(our_scorer(state_dict, info, device), tokenizer, info.context_tokens, info.objective)


def _hf_context_tokens(folder: Path) -> int:
    file = folder / "tokenizer_config.json"
    limits = [json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")]
    limits += [json.loads(file.read_text(encoding="utf-8")).get("model_max_length")] if file.is_file() else []
    known = [limit for limit in limits if limit is not None]
    if not known:
        raise ValueError(
            f"{folder}: config.json has no max_position_embeddings; add the longest input of the model"
        )
    return int(min(known))


def _recipe_of(target: Path) -> Recipe:
    file = _run_folder(target) / RECIPE_FILE
    if not file.is_file():
        raise ValueError(
            f"{target}: no recipe.yaml beside it says what to evaluate on; name one (--recipe RECIPE.yaml)"
        )
    return load_recipe(file)


def _run_folder(target: Path) -> Path:
    return run_folder_of(target) if target.suffix == ".pt" else target


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device == "gpu" else device
