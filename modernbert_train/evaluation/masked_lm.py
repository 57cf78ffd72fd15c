"""Loss and accuracy of each source on held-out text, beside the unigram baseline, by position and length on request.

The masks are fixed, so models that are evaluated on the same text predict the same tokens. Runs and checkpoints are
computed by our encoder on packed rows; a Hugging Face folder of any masked-LM model by Transformers on the same
documents, padded, so its scores also check the export. A checkpoint that was last trained with objective clm predicts
next tokens instead of masked ones.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modernbert_train.checkpoints.run_files import RECIPE_FILE
from modernbert_train.common.types import Int64
from modernbert_train.config import Recipe, load_recipe
from modernbert_train.config.schema import ObjectiveName
from modernbert_train.data.batch import MicroBatch
from modernbert_train.evaluation.held_out import HeldOutText, StoreText, TokenizedText
from modernbert_train.evaluation.models import EvaluatedModel, check_one_objective, find_device, open_model
from modernbert_train.evaluation.scorers import Scorer, TargetScores
from modernbert_train.evaluation.targets import EDGES, Mean, Targets, mean_over_documents
from modernbert_train.evaluation.unigram import UnigramScore, score_unigram
from modernbert_train.objectives import IGNORE_INDEX

log = logging.getLogger(__name__)

# exp of more is no number of interest, and too large for a float at 710.
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class SourceScore:
    """Scores of one model on the held-out text of one source. Losses in nats per target."""

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
    model: str = ""
    # Standard errors over documents; NaN for a single document.
    loss_error: float = math.nan
    accuracy_error: float = math.nan
    # The scores of the single targets.
    targets: Targets | None = field(default=None, compare=False, repr=False)

    @property
    def gain(self) -> float:
        """Nats per target below the unigram loss."""
        return self.unigram.loss - self.loss

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.loss, _LARGEST_EXPONENT))

    @property
    def is_guessed(self) -> bool:
        """Whether the loss is that of a model to which all tokens are about equally likely, as random weights are."""
        return self.loss > math.log(self.num_ids) - 0.1

    @property
    def accuracy_ratio(self) -> float:
        """Accuracy divided by the baseline's; infinite if that is 0."""
        return self.accuracy / self.unigram.accuracy if self.unigram.accuracy > 0 else float("inf")

    @property
    def mean_loss(self) -> Mean:
        """The loss with its standard error."""
        return Mean(self.loss, self.loss_error)


def evaluate_masked_lm(
    target: str | Path, recipe: Recipe | None = None, *, device: str = "auto", progress_bar: bool = True
) -> list[SourceScore]:
    """Score a model on each source of a recipe that has held-out text.

    Args:
        target: A run folder, a `.pt` file or a Hugging Face folder.
        recipe: Determines the text, its amount and the mask rate. None: the recipe stored with the run.
        device: See `find_device`.
        progress_bar: Whether to show one, where the output is a terminal.

    Returns:
        A score for each source that has something to predict.

    Raises:
        ValueError: There is no model, no recipe or nothing to predict, or the store has another tokenizer.
    """
    model = open_model(target)
    text = StoreText(recipe or own_recipe(model.folder))
    with closing(text):
        return score_models(
            [model],
            text,
            choose_context([model], text.context_tokens),
            device=device,
            progress_bar=progress_bar,
        )


def choose_context(
    models: Sequence[EvaluatedModel],
    of_recipe: int | None = None,
    *,
    wanted: int | None = None,
    longest: bool = False,
) -> int:
    """Return the length at which documents are cut: one for all models, so that they read the same text.

    Args:
        models: To evaluate.
        of_recipe: The context length of the recipe; None for raw text.
        wanted: What the user asks for, if anything.
        longest: Whether the default is the longest context of a model, up to the last bucket of positions, and not the
            shortest of models and recipe.

    Returns:
        Most tokens of a document, with [CLS] and [SEP]; none of the models can read less.
    """
    trained = [model.context_tokens for model in models]
    if wanted is None:
        shortest = min([*trained, *([] if of_recipe is None else [of_recipe])])
        wanted = min(max(trained), EDGES[-1]) if longest else shortest
    limited = [model for model in models if model.most_tokens is not None and model.most_tokens < wanted]
    if not limited:
        return wanted
    shortest_model = min(limited, key=lambda model: model.most_tokens or wanted)
    assert shortest_model.most_tokens is not None
    log.warning(
        "documents are cut at %s tokens instead of %s: %s has no more positions",
        f"{shortest_model.most_tokens:,}",
        f"{wanted:,}",
        shortest_model.name,
    )
    return shortest_model.most_tokens


def score_models(
    models: Sequence[EvaluatedModel],
    text: HeldOutText,
    context_tokens: int,
    *,
    device: str = "auto",
    progress_bar: bool = True,
) -> list[SourceScore]:
    """Score models on each source of a text.

    Args:
        models: All with one objective.
        text: What to read.
        context_tokens: Most tokens of a piece.
        device: See `find_device`.
        progress_bar: Whether to show one, where the output is a terminal.

    Returns:
        The scores, model by model. Sources in which a model has nothing to predict are left out, with a warning.

    Raises:
        ValueError: A model has nothing to predict at all, or the text does not fit its tokenizer.
    """
    check_one_objective(models)
    where = find_device(device)
    scores = []
    for model in models:
        read = text.read(model.tokenizer, progress_bar)
        if not read.sources:
            assert isinstance(text, StoreText)
            raise ValueError(
                f"{model.name}: no source of {text.recipe.name} has held-out text; tokenize with --valid-fraction "
                "above 0"
            )
        scorer = model.scorer(where)
        found = {
            source: score_source(source, read, model, scorer, context_tokens, progress_bar)
            for source in read.sources
        }
        empty = [source for source, score in found.items() if score is None]
        if len(empty) == len(found):
            raise ValueError(
                f"{', '.join(empty)}: no token of the held-out text was chosen for prediction; raise "
                "evaluation.max_rows or evaluation.mask_rate, or name text that the tokenizer knows (not [UNK])"
            )
        for source in empty:
            log.warning("%s is skipped: no token of its held-out text was chosen for prediction", source)
        scores += [score for score in found.values() if score is not None]
    return scores


def score_source(
    source: str,
    text: TokenizedText,
    model: EvaluatedModel,
    scorer: Scorer,
    context_tokens: int,
    progress_bar: bool,
) -> SourceScore | None:
    """Score a model on a source, and the frequencies of tokens on the same targets.

    Returns:
        Both scores; None if there is nothing to predict.
    """
    num_tokens, parts = 0, []
    rows = text.rows(source, model.objective, context_tokens)
    for batch, documents in tqdm(
        rows, desc=source, unit="row", leave=False, disable=None if progress_bar else True
    ):
        num_tokens += batch["num_tokens"]
        parts.append(_targets(batch, documents, scorer(batch)))
    if not parts or not len(targets := Targets.join(parts)):
        return None
    counts = text.count(source, model.tokenizer.num_ids, progress_bar)
    # No text has [SEP], and it is never masked. As a next token, it counts as often as it is a target.
    num_ends = int((targets.label == model.tokenizer.sep_id).sum())
    counts[model.tokenizer.sep_id] += counts.sum() * num_ends // max(1, len(targets) - num_ends)
    loss = mean_over_documents(targets.loss, targets.document)
    accuracy = mean_over_documents(targets.hit, targets.document)
    return SourceScore(
        source=source,
        num_tokens=num_tokens,
        num_targets=len(targets),
        loss=loss.value,
        accuracy=accuracy.value,
        unigram=score_unigram(counts, targets.label),
        num_ids=model.tokenizer.num_ids,
        objective=model.objective,
        model=model.name,
        loss_error=loss.error,
        accuracy_error=accuracy.error,
        targets=targets,
    )


def _targets(batch: MicroBatch, documents: Int64, scores: TargetScores) -> Targets:
    """Return the targets of a row; its first pieces are those of `documents`, and no target is in the padding."""
    real = (batch["labels"] != IGNORE_INDEX).numpy()
    positions = batch["target_positions"].numpy()[real]
    ends = batch["cu_seqlens"].numpy().astype(np.int64)
    piece = np.searchsorted(ends, positions, side="right") - 1
    return Targets(
        loss=scores.losses,
        hit=scores.hits,
        label=batch["labels"].numpy()[real],
        document=documents[piece],
        position=positions - ends[piece] + 1,
        length=np.diff(ends)[piece],
    )


def own_recipe(folder: Path) -> Recipe:
    """Load the recipe of a run folder.

    Returns:
        The recipe, with which the run was trained.

    Raises:
        ValueError: It has none, as a Hugging Face folder.
    """
    file = folder / RECIPE_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder}: no recipe.yaml in it, so the text to evaluate on is unknown; name one (--recipe RECIPE.yaml) "
            "or files of text (--text NAME=PATTERN)"
        )
    return load_recipe(file)
