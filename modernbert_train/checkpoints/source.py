"""Weights that a user names by a path: a run folder, a checkpoint, or a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from modernbert_train.checkpoints import checkpoint
from modernbert_train.checkpoints.hf import folder as hf_folder
from modernbert_train.checkpoints.info import CheckpointInfo, read_info
from modernbert_train.config import ModelConfig
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info


@dataclass(frozen=True)
class WeightSource:
    """Weights that are there, and what is known of them before they are read."""

    path: Path  # the checkpoint file, or the Hugging Face folder
    info: CheckpointInfo  # of a Hugging Face folder: that of its import

    @property
    def model(self) -> ModelConfig:
        return self.info.model

    @property
    def folder(self) -> Path:
        """The run folder or Hugging Face folder: where the tokenizer lies."""
        return self.path if self.path.is_dir() else checkpoint.run_folder_of(self.path)

    def tokenizer(self) -> TokenizerInfo:
        """The tokenizer the weights were trained with. ValueError: it is not there, or another is."""
        tokenizer = load_tokenizer_info(self.folder)
        if tokenizer.fingerprint != self.info.tokenizer_fingerprint:
            raise ValueError(
                f"{self.folder / 'tokenizer.json'} is not the tokenizer the weights were trained with; put that "
                "one back"
            )
        return tokenizer

    def read(self) -> dict[str, torch.Tensor]:
        """The weights under Transformers' names, on the CPU. ValueError if they hold NaN or infinity."""
        if self.path.is_dir():
            weights = hf_folder.read_weights(self.path, self.model)
        else:
            weights = checkpoint.read_weights(self.path)
        return self._finite(weights)

    def read_average(self) -> dict[str, torch.Tensor]:
        """The moving average of the weights. ValueError if there is none, or one that holds NaN or infinity."""
        if self.path.is_dir():
            raise ValueError(
                f"{self.path}: a Hugging Face folder holds no moving average; name a run or checkpoint"
            )
        return self._finite(checkpoint.read_average(self.path))

    def _finite(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
        if broken:
            raise ValueError(f"{self.path}: {broken[0]} holds NaN or infinity; take an earlier checkpoint")
        return weights

    def __str__(self) -> str:
        if self.path.is_dir():
            return str(self.path)
        return f"{self.path} (step {self.info.step:,}, {self.info.tokens:,} tokens)"


def open_weights(source: str | Path) -> WeightSource:
    """Find and check what `source` names; of a run folder its newest good checkpoint. No weights are read yet.

    ValueError: nothing there, or damaged; of a Hugging Face folder, what `hub.import_folder` says.
    """
    path = Path(source)
    if hf_folder.is_hf_folder(path):
        return WeightSource(path, hf_folder.read_info(path))
    path = checkpoint.resolve(path)
    return WeightSource(path, read_info(path))
