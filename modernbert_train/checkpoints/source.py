"""Weights that a user names by a path: a run folder, a checkpoint, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from modernbert_train.checkpoints import checkpoint
from modernbert_train.checkpoints.hf import folder as hf_folder
from modernbert_train.checkpoints.info import CheckpointInfo, info_file, read_info
from modernbert_train.config import ModelConfig
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.store.tokenizer import TokenizerInfo, load_tokenizer_info


class FailedCheck(ValueError):
    """A model that can be read but is not usable or not equal to what it should be equal to."""


@dataclass(frozen=True)
class WeightSource:
    """Weights on disk, and the facts about them that are known before they are read."""

    # The checkpoint file, or the Hugging Face folder.
    path: Path
    info: CheckpointInfo
    # What is not taken over from a Hugging Face folder as it is, or is made new; a line each.
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> ModelConfig:
        """The architecture of the weights."""
        return self.info.model

    @property
    def folder(self) -> Path:
        """The run folder or Hugging Face folder, which holds the tokenizer."""
        return self.path if self.path.is_dir() else checkpoint.run_folder_of(self.path)

    def tokenizer(self) -> TokenizerInfo:
        """Return the tokenizer that the weights were trained with.

        Raises:
            ValueError: It is missing, or the folder holds another one.
        """
        tokenizer = load_tokenizer_info(self.folder)
        if tokenizer.fingerprint != self.info.tokenizer_fingerprint:
            raise ValueError(
                f"{self.folder / 'tokenizer.json'} is not the tokenizer that the weights were trained with; restore "
                "the original file"
            )
        return tokenizer

    def read(self) -> dict[str, torch.Tensor]:
        """Read the weights, under Transformers' names, to the CPU.

        Returns:
            Transformers' name of a weight -> its value.

        Raises:
            FailedCheck: A weight holds NaN or infinity.
            ValueError: The weights cannot be read, or do not fit the architecture.
        """
        if self.path.is_dir():
            return self._checked(hf_folder.read_hf_weights(self.path))
        return self._checked(checkpoint.read_weights(self.path))

    def read_average(self) -> dict[str, torch.Tensor]:
        """Read the moving average of the weights (`training.ema_half_life_tokens`) to the CPU.

        Returns:
            Transformers' name of a weight -> its average.

        Raises:
            FailedCheck: A weight holds NaN or infinity.
            ValueError: There is no moving average.
        """
        if self.path.is_dir():
            raise ValueError(
                f"{self.path}: a Hugging Face folder holds no moving average; name a run folder or checkpoint"
            )
        return self._checked(checkpoint.read_average(self.path))

    def _checked(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.path.is_file():
            checkpoint.check_weights(self.path, weights, self.model, info_file(self.path).name)
        if broken := nonfinite(weights.items()):
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise FailedCheck(
                f"{self.path}: {broken[0]}{more} holds NaN or infinity; use an earlier checkpoint"
            )
        return weights

    def __str__(self) -> str:
        if self.path.is_dir():
            return str(self.path)
        return f"{self.path} (step {self.info.step:,}, {self.info.tokens:,} tokens)"


def open_weights(source: str | Path) -> WeightSource:
    """Find and verify the weights that `source` names.

    Args:
        source: A run folder (its newest good checkpoint is used), a `.pt` file, or a Hugging Face folder.

    Returns:
        The weights, not yet read.

    Raises:
        ValueError: Nothing is there, the file is damaged, or the Hugging Face model is one our encoder cannot compute.
    """
    path = Path(source)
    if hf_folder.is_hf_folder(path):
        return open_hf_weights(path)
    path = checkpoint.resolve(path)
    return WeightSource(path, read_info(path))


def open_hf_weights(folder: Path) -> WeightSource:
    """Find the weights of a Hugging Face folder, or of the transformer in a folder of sentence-transformers.

    Returns:
        The weights, not yet read.

    Raises:
        ValueError: Files are missing or damaged, or the model is one our encoder cannot compute.
    """
    folder = hf_folder.transformer_folder(folder)
    info, notes = hf_folder.read_hf_info(folder)
    return WeightSource(folder, info, tuple(notes))


def refuse_causal(source: WeightSource) -> None:
    """Refuse weights that were last trained with causal attention where a class of Transformers is to compute them.

    Raises:
        ValueError: They were.
    """
    if source.info.is_causal:
        raise ValueError(
            f"{source.path}: its phase {source.info.phase} has objective {source.info.objective}, and no class of "
            "Transformers computes this encoder with causal attention; use a checkpoint of a later phase with "
            f"objective: mlm, or train one from it with init.from={source.path}"
        )


def nonfinite(weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Return the names of the weights that hold NaN or infinity."""
    return [name for name, weight in weights if not torch.isfinite(weight).all()]


def build_encoder(
    info: CheckpointInfo, weights: Mapping[str, torch.Tensor], attention_backend: str = "torch"
) -> ModernBertForMaskedLM:
    """Build our encoder with the weights, thetas and attention mask of a checkpoint, on the CPU, in eval mode."""
    encoder = ModernBertForMaskedLM(info.model, attention_backend=attention_backend)
    encoder.load_state_dict(weights)
    encoder.set_rope_theta(info.global_rope_theta, info.local_rope_theta)
    encoder.set_causal(info.is_causal)
    return encoder.eval()
