"""The models that are evaluated: what is known of them before their weights are read, and their scorers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from modernbert_train.checkpoints.hf.folder import (
    context_tokens,
    is_hf_folder,
    most_positions,
    transformer_folder,
)
from modernbert_train.checkpoints.hub import find_model
from modernbert_train.checkpoints.source import WeightSource, open_weights
from modernbert_train.config.schema import ObjectiveName
from modernbert_train.evaluation.scorers import Scorer, our_scorer, transformers_scorer
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate. Runs and checkpoints are computed by our encoder, other folders by Transformers."""

    # As the user wrote it.
    name: str
    # The run folder or Hugging Face folder.
    folder: Path
    tokenizer: TokenizerInfo
    # The longest document it was trained on.
    context_tokens: int
    # The longest document it can read; None: no limit.
    most_tokens: int | None
    # The objective it was last trained with.
    objective: ObjectiveName = "mlm"
    # None for a Hugging Face folder.
    source: WeightSource | None = None

    def scorer(self, device: torch.device) -> Scorer:
        """Read the weights and return what scores targets with them."""
        if self.source is None:
            return transformers_scorer(self.folder, device)
        return our_scorer(self.source.info, self.source.read(), device)


def open_model(target: str | Path) -> EvaluatedModel:
    """Open a run folder (its newest good checkpoint), a `.pt` file, a Hugging Face folder or a model of the hub.

    Returns:
        The model, whose weights are not yet read.

    Raises:
        ValueError: There is none, it is damaged, or it has no tokenizer.
    """
    folder = transformer_folder(find_model(target))
    if is_hf_folder(folder):
        return EvaluatedModel(
            str(target),
            folder,
            load_tokenizer_info(folder),
            context_tokens(folder),
            most_positions(folder),
        )
    source = open_weights(folder)
    return EvaluatedModel(
        str(target),
        source.folder,
        source.tokenizer(),
        source.info.context_tokens,
        source.model.max_position_embeddings,
        source.info.objective,
        source,
    )


def check_one_objective(models: Sequence[EvaluatedModel]) -> None:
    """Check that models predict the same tokens.

    Raises:
        ValueError: One predicts masked tokens, another one the next ones.
    """
    for model in models[1:]:
        if model.objective != models[0].objective:
            raise ValueError(
                f"{model.name} was last trained with objective {model.objective}, and {models[0].name} with "
                f"{models[0].objective}, so their losses are not comparable; evaluate each by a command of its own"
            )


def find_device(name: str) -> torch.device:
    """Return the device that a user names.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "gpu", or "cuda:N" for the GPU with number N.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|gpu|cuda(:\d+)?", name):
        raise ValueError(f"--device is {name!r}, must be auto, cpu, gpu, or cuda:N for GPU number N")
    device = torch.device(name.replace("gpu", "cuda"))
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"--device is {name!r}, but this machine has {f'{count} GPUs' if count else 'no GPU'} that torch can use; "
            "name another one, or auto"
        )
    return device
