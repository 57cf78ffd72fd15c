"""Reading a Hugging Face ModernBERT or BERT folder: what it holds, and its weights under our names."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from modernbert_train.checkpoints.hf.config import from_hf_config, from_hf_weights, hf_class, read_hf_config
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def is_hf_folder(folder: Path) -> bool:
    """Whether a path is a Hugging Face folder, and not a run folder or a checkpoint."""
    return (folder / CONFIG_FILE).is_file()


def read_info(folder: Path) -> CheckpointInfo:
    """The facts that a checkpoint of these weights would carry. ValueError: see `convert.import_folder`."""
    model = from_hf_config(read_hf_config(folder), folder / CONFIG_FILE)
    _weight_file(folder)  # they are there
    return CheckpointInfo(
        step=0,
        tokens=0,
        phase="import",
        phase_step=0,
        context_tokens=_context_tokens(folder, model),
        global_rope_theta=model.global_rope_theta,
        local_rope_theta=model.local_rope_theta,
        model=model,
        tokenizer_fingerprint=_tokenizer_of(folder, model).fingerprint,
    )


def read_weights(folder: Path, model: ModelConfig) -> dict[str, Tensor]:
    """The weights of a Hugging Face folder under the names and shapes of our model, in float32.

    Takes names with and without the leading `model.`; ties the decoder to the embedding. ValueError: see
    `convert.import_folder`.
    """
    file = _weight_file(folder)
    loaded = (
        load_file(file)
        if file.suffix == ".safetensors"
        else torch.load(file, map_location="cpu", weights_only=True)
    )
    with torch.device("meta"):
        expected = ModernBertForMaskedLM(model, attention_backend="torch").state_dict()
    loaded = from_hf_weights(loaded, model)
    if EMBEDDING not in loaded:
        loaded = {name if name in expected else f"model.{name}": weight for name, weight in loaded.items()}
    if EMBEDDING in loaded:
        decoder = loaded.setdefault(TIED_WEIGHT, loaded[EMBEDDING])
        if not torch.equal(decoder, loaded[EMBEDDING]):
            raise ValueError(
                f"{file}: decoder.weight is not the embedding; only models that tie them can be imported"
            )
    _check_fit(loaded, expected, file, hf_class(model))
    weights = {name: weight.to(torch.float32) for name, weight in loaded.items()}
    weights[TIED_WEIGHT] = weights[EMBEDDING]
    return {name: weights[name] for name in expected}


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder}: has neither {' nor '.join(WEIGHT_FILES)}; download the weights into it")


def _check_fit(loaded: dict[str, Tensor], expected: dict[str, Tensor], file: Path, class_name: str) -> None:
    problems = [f"{name} is missing" for name in expected if name not in loaded]
    problems += [f"{name} is unknown" for name in loaded if name not in expected]
    problems += [
        f"{name} is {list(loaded[name].shape)}, config.json asks for {list(weight.shape)}"
        for name, weight in expected.items()
        if name in loaded and loaded[name].shape != weight.shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{file}: not the weights of a {class_name}: {'; '.join(problems[:5])}{more}")


def _tokenizer_of(folder: Path, model: ModelConfig) -> TokenizerInfo:
    tokenizer = load_tokenizer_info(folder)
    if tokenizer.num_ids > model.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has ids up to {tokenizer.num_ids - 1:,}, the model has vocab_size "
            f"{model.vocab_size:,}; take the tokenizer that was published with the weights"
        )
    return tokenizer


def _context_tokens(folder: Path, model: ModelConfig) -> int:
    """The tokenizer's `model_max_length`, in an export the trained context; else what the config allows."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return min(model.max_position_embeddings, config.get("model_max_length") or model.max_position_embeddings)
