"""Read a Hugging Face folder of a ModernBERT or BERT: its facts, and its weights under our names."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from modernbert_train.checkpoints.checkpoint import load_tensors
from modernbert_train.checkpoints.hf.config import from_hf_config, from_hf_weights, hf_class, read_hf_config
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT, weight_shapes
from modernbert_train.store.tokenizer import TokenizerInfo, load_tokenizer_info

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def is_hf_folder(folder: Path) -> bool:
    """Check whether a path is a Hugging Face folder, not a run folder or a checkpoint."""
    return (folder / CONFIG_FILE).is_file()


def read_hf_info(folder: Path) -> CheckpointInfo:
    """Return the facts of the checkpoint that an import of the folder makes, at step 0.

    Raises:
        ValueError: See `convert.import_folder`.
    """
    model = from_hf_config(read_hf_config(folder), folder / CONFIG_FILE)
    _weight_file(folder)
    return CheckpointInfo(
        step=0,
        tokens=0,
        phase="import",
        phase_step=0,
        context_tokens=context_tokens(folder, model.max_position_embeddings),
        global_rope_theta=model.global_rope_theta,
        local_rope_theta=model.local_rope_theta,
        model=model,
        tokenizer_fingerprint=_load_tokenizer(folder, model).fingerprint,
    )


def context_tokens(folder: Path, max_position_embeddings: int | None = None) -> int:
    """Return the longest input: the tokenizer's `model_max_length`, at most the model's `max_position_embeddings`.

    In a folder that we exported, `model_max_length` is the context that the weights were trained with.

    Args:
        folder: A Hugging Face folder of any model.
        max_position_embeddings: The model's default, used where config.json does not have the field.

    Raises:
        ValueError: Neither file has a limit, and there is no default.
    """
    file = folder / "tokenizer_config.json"
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    limits = [config.get("max_position_embeddings", max_position_embeddings)]
    limits += [json.loads(file.read_text(encoding="utf-8")).get("model_max_length")] if file.is_file() else []
    known = [limit for limit in limits if limit]
    if not known:
        raise ValueError(
            f"{folder}: config.json has no max_position_embeddings; add the longest input of the model"
        )
    return int(min(known))


def read_hf_weights(folder: Path, model: ModelConfig) -> dict[str, Tensor]:
    """Read the weights under the names and shapes of our model, in float32, with the decoder tied to the embedding.

    Names with and without the leading `model.` are accepted.

    Returns:
        Our name of a weight -> its value, in the order of our state dict.

    Raises:
        ValueError: See `convert.import_folder`.
    """
    file = _weight_file(folder)
    loaded = load_file(file) if file.suffix == ".safetensors" else load_tensors(file)
    expected = weight_shapes(model)
    loaded = from_hf_weights(loaded, model)
    if EMBEDDING not in loaded:
        loaded = {name if name in expected else f"model.{name}": weight for name, weight in loaded.items()}
    if EMBEDDING in loaded:
        decoder = loaded.setdefault(TIED_WEIGHT, loaded[EMBEDDING])
        if not torch.equal(decoder, loaded[EMBEDDING]):
            raise ValueError(
                f"{file}: decoder.weight differs from the embedding; only models that tie them can be imported"
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


def _check_fit(
    loaded: dict[str, Tensor], expected: dict[str, tuple[int, ...]], file: Path, class_name: str
) -> None:
    problems = [f"{name} is missing" for name in expected if name not in loaded]
    problems += [f"{name} is unknown" for name in loaded if name not in expected]
    problems += [
        f"{name} is {list(loaded[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in expected.items()
        if name in loaded and loaded[name].shape != shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{file}: not the weights of a {class_name}: {'; '.join(problems[:5])}{more}")


def _load_tokenizer(folder: Path, model: ModelConfig) -> TokenizerInfo:
    tokenizer = load_tokenizer_info(folder)
    if tokenizer.num_ids > model.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has ids up to {tokenizer.num_ids - 1:,}, the model has vocab_size "
            f"{model.vocab_size:,}; use the tokenizer that was published with the weights"
        )
    return tokenizer
