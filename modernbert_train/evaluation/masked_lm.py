"""Loss and accuracy of each source on held-out text, beside the unigram baseline.

The masks are fixed, so models that are evaluated with the same recipe predict the same tokens. Runs and checkpoints are
computed by our encoder on packed rows; a Hugging Face folder of any masked-LM model by Transformers on the same
documents, padded, so its scores also check the export. A checkpoint that was last trained with objective clm predicts
next tokens instead of masked ones.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from modernbert_train.checkpoints.hf.folder import context_tokens, is_hf_folder, transformer_folder
from modernbert_train.checkpoints.run_files import EVALUATION_FILE, RECIPE_FILE
from modernbert_train.checkpoints.source import WeightSource, open_weights
from modernbert_train.common.files import write_atomically
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

_COLUMNS = (
    "unigram loss, baseline accuracy: those of a model that only knows how frequent tokens are; x baseline: accuracy / "
    "baseline accuracy"
)
_GUESSED = (
    "as bad as guessing among all tokens: these weights look untrained, or do not belong to this tokenizer"
)
_WORSE = (
    "worse than the unigram baseline, which only knows how frequent tokens are: the model has trained too little, its "
    "learning rate is wrong, or this text is unlike what it was trained on"
)


@dataclass(frozen=True)
class SourceScore:
    """Scores of one source's held-out text. Losses in nats per target."""

    source: str
    # With [CLS] and [SEP].
    num_tokens: int
    num_targets: int
    loss: float
    accuracy: float
    unigram: UnigramScore
    # Tokens to choose from.
    num_ids: int
    objective: ObjectiveName = "mlm"

    @property
    def gain(self) -> float:
        """Nats per target below the unigram loss."""
        return self.unigram.loss - self.loss

    @property
    def is_guessed(self) -> bool:
        """Whether the loss is that of a model to which all tokens are about equally likely, as random weights are."""
        return self.loss > math.log(self.num_ids) - 0.1

    @property
    def accuracy_ratio(self) -> float:
        """Accuracy divided by the baseline's; infinite if that is 0."""
        return self.accuracy / self.unigram.accuracy if self.unigram.accuracy > 0 else float("inf")


@dataclass(frozen=True)
class ScoredModel:
    """A model to evaluate."""

    scorer: Scorer
    tokenizer: TokenizerInfo
    # The longest document it was trained on.
    context_tokens: int
    # The objective it was last trained with.
    objective: ObjectiveName = "mlm"


def evaluate(target: str | Path, recipe_path: str | Path | None = None) -> str:
    """Return the scores of `evaluate_masked_lm` as a text table.

    Those of a run, on the text of its own recipe, are also written to its evaluation.json, for the model card.
    """
    recipe = None if recipe_path is None else load_recipe(recipe_path)
    scores = evaluate_masked_lm(target, recipe)
    if recipe is None and not is_hf_folder(transformer_folder(Path(target))):
        _write_scores(open_weights(target), scores)
    return format_scores(scores)


def _write_scores(source: WeightSource, scores: list[SourceScore]) -> None:
    record = {
        "step": source.info.step,
        "sha256": source.info.sha256,
        "objective": source.info.objective,
        "eval": {
            score.source: {
                "loss": score.loss,
                "accuracy": score.accuracy,
                "unigram_loss": score.unigram.loss,
                "unigram_accuracy": score.unigram.accuracy,
            }
            for score in scores
        },
    }
    file = source.folder / EVALUATION_FILE
    try:
        write_atomically(file, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        log.warning("%s cannot be written, so a model card will lack the unigram baseline: %s", file, error)


def evaluate_masked_lm(
    target: str | Path, recipe: Recipe | None = None, *, device: str = "auto", progress_bar: bool = True
) -> list[SourceScore]:
    """Score a model on each source of a recipe that has held-out text.

    Args:
        target: A run folder, a `.pt` file or a Hugging Face folder.
        recipe: Determines the text, its amount and the mask rate. None: the recipe stored with the run.
        device: "auto", "gpu" or "cpu".
        progress_bar: Whether to show one, where the output is a terminal.

    Returns:
        A score for each source that has something to predict.

    Raises:
        ValueError: There is no model, no recipe or nothing to predict, or the store has another tokenizer.
    """
    target = transformer_folder(Path(target))
    source = None if is_hf_folder(target) else open_weights(target)
    recipe = recipe or _recipe_in(target if source is None else source.folder)
    model = _open(target, source, torch.device(_device(device)))
    # The text must have been tokenized with the model's own tokenizer, whichever copy of it the recipe names.
    data = dataclasses.replace(recipe.data, tokenizer=str(model.tokenizer.path))
    inputs = open_inputs(dataclasses.replace(recipe, data=data))
    for name in inputs.train.keys() - inputs.valid.keys():
        log.warning("%s has no held-out text in its store and is skipped", name)
    if not inputs.valid:
        raise ValueError(
            f"{target}: no source of {recipe.name} has held-out text; tokenize with --valid-fraction above 0"
        )
    with closing(inputs.reader):
        found = {name: score_source(name, inputs, model, recipe, progress_bar) for name in inputs.valid}
    scores = [score for score in found.values() if score is not None]
    empty = [name for name, score in found.items() if score is None]
    if not scores:
        raise ValueError(
            f"{', '.join(empty)}: no token of the held-out text was chosen for prediction; raise "
            "evaluation.max_rows or evaluation.mask_rate, or hold out text that the tokenizer knows (not [UNK])"
        )
    for name in empty:
        log.warning("%s is skipped: no token of its held-out text was chosen for prediction", name)
    return scores


def score_source(
    source: str, inputs: Inputs, model: ScoredModel, recipe: Recipe, progress_bar: bool
) -> SourceScore | None:
    """Score a model on a source's held-out text, and the training text's token frequencies on the same targets.

    Returns:
        Both scores; None if there is nothing to predict.
    """
    loss_sum, num_correct, num_tokens = 0.0, 0, 0
    labels = []
    batches = _batches(source, inputs, model, recipe)
    for batch in tqdm(batches, desc=source, unit="row", leave=False, disable=None if progress_bar else True):
        batch_loss, batch_correct = model.scorer(batch)
        loss_sum, num_correct, num_tokens = (
            loss_sum + batch_loss,
            num_correct + batch_correct,
            num_tokens + batch["num_tokens"],
        )
        labels.append(batch["labels"][batch["labels"] != IGNORE_INDEX].numpy())
    targets = np.concatenate(labels) if labels else np.empty(0, dtype=np.int64)
    if len(targets) == 0:
        return None
    counts = count_tokens(source, inputs.train[source], inputs.reader, model.tokenizer.num_ids, progress_bar)
    # Stores have no [SEP], and it is never masked. As a next token, it counts as often as it is a target.
    num_ends = int((targets == model.tokenizer.sep_id).sum())
    counts[model.tokenizer.sep_id] += counts.sum() * num_ends // max(1, len(targets) - num_ends)
    return SourceScore(
        source=source,
        num_tokens=num_tokens,
        num_targets=len(targets),
        loss=loss_sum / len(targets),
        accuracy=num_correct / len(targets),
        unigram=score_unigram(counts, targets),
        num_ids=model.tokenizer.num_ids,
        objective=model.objective,
    )


def format_scores(scores: list[SourceScore]) -> str:
    """Return the scores as a text table, what its columns mean, and which sources are worse than the baseline."""
    predicted = OBJECTIVES[scores[0].objective].title
    columns = (
        "source", "tokens", predicted,
        "loss", "unigram loss", "gain (nats)",
        "accuracy", "baseline accuracy", "x baseline",
    )  # fmt: skip
    rows = [
        (
            s.source, f"{s.num_tokens:,}", f"{s.num_targets:,}",
            f"{s.loss:.3f}", f"{s.unigram.loss:.3f}", f"{s.gain:.3f}",
            f"{s.accuracy:.1%}", f"{s.unigram.accuracy:.1%}", f"{s.accuracy_ratio:.1f}",
        )
        for s in scores
    ]  # fmt: skip
    lines = [format_table(columns, rows), "", _COLUMNS]
    if guessed := [score.source for score in scores if score.is_guessed]:
        lines.append(f"{', '.join(guessed)}: {_GUESSED}")
    if worse := [score.source for score in scores if score.gain < 0 and not score.is_guessed]:
        lines.append(f"{', '.join(worse)}: {_WORSE}")
    return "\n".join(lines)


def _batches(source: str, inputs: Inputs, model: ScoredModel, recipe: Recipe) -> Iterator[MicroBatch]:
    """Yield rows as in the last phase, so that all checkpoints of a run and its exports have the same targets."""
    phase = list(recipe.phases.values())[-1]
    return evaluation_batches(
        source,
        inputs,
        build_objective(model.objective, recipe.evaluation),
        context_tokens=min(phase.context_tokens, model.context_tokens),
        row_tokens=phase.row_tokens,
        max_rows=recipe.evaluation.max_rows,
    )


def _open(target: Path, source: WeightSource | None, device: torch.device) -> ScoredModel:
    if source is None:
        scorer = transformers_scorer(target, device)
        return ScoredModel(scorer, load_tokenizer_info(target), context_tokens(target))
    scorer = our_scorer(source.info, source.read(), device)
    return ScoredModel(scorer, source.tokenizer(), source.info.context_tokens, source.info.objective)


def _recipe_in(folder: Path) -> Recipe:
    file = folder / RECIPE_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder}: no recipe.yaml in it, so the text to evaluate on is unknown; name one (--recipe RECIPE.yaml)"
        )
    return load_recipe(file)


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device == "gpu" else device
