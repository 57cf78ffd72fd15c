"""Any model that a user names, as a Hugging Face folder, for libraries that open nothing else.

A run folder or a checkpoint is written to a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from modernbert_train.checkpoints.hf.folder import is_hf_folder, transformer_folder
from modernbert_train.checkpoints.hf.vocabulary import without_padding
from modernbert_train.checkpoints.hf.writing import write_hf_folder
from modernbert_train.checkpoints.hub import find_model
from modernbert_train.checkpoints.source import WeightSource, open_weights, refuse_causal
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
from modernbert_train.store.tokenizer import SPECIAL_TOKENS_MAP, TOKENIZER_FILES


@contextmanager
def as_hf_folder(
    model: str | Path, random_seed: int | None = None, beside: Path | None = None
) -> Iterator[Path]:
    """Yield a Hugging Face folder with the weights of a model.

    Args:
        model: A run folder, a checkpoint, a folder of Hugging Face or sentence-transformers, or a name of the hub.
        random_seed: Of random weights of the same architecture that stand in for the model's. None: the model's own.
        beside: Folder for a temporary one. None: that of the system.

    Yields:
        The folder. It is deleted afterwards if it is a temporary one.

    Raises:
        ValueError: There is no such model, or it was last trained with causal attention, or it cannot be downloaded.
    """
    path = find_model(model)
    if is_hf_folder(path) and random_seed is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=".model.", dir=beside) as temporary:
        folder = Path(temporary)
        if is_hf_folder(path):
            _write_random_hf_model(transformer_folder(path), folder, random_seed or 0)
        else:
            _write_checkpoint(open_weights(path), folder, random_seed)
        yield folder


def _write_checkpoint(source: WeightSource, folder: Path, random_seed: int | None) -> None:
    refuse_causal(source)
    if random_seed is None:
        weights = source.read()
    else:
        encoder = ModernBertForMaskedLM(source.model)
        initialize_weights(encoder, source.model, torch.Generator().manual_seed(random_seed))
        weights = encoder.state_dict()
    info, weights = without_padding(source.info, weights)
    write_hf_folder(folder, weights, info, source.tokenizer())


def _write_random_hf_model(folder: Path, out: Path, seed: int) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(out)
    for name in (*TOKENIZER_FILES, SPECIAL_TOKENS_MAP):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
