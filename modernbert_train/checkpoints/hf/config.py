"""Convert architecture and weights between ours and the class of Transformers that computes the same model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert_train.checkpoints.hf import bert, modernbert
from modernbert_train.checkpoints.hf.fields import dropout_note
from modernbert_train.checkpoints.hf.layout import Layout
from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import TIED_WEIGHT
from modernbert_train.store.manifest import TokenizerInfo

# Class -> the settings that it supports.
CLASSES = {"ModernBertForMaskedLM": modernbert.SWITCHES, "BertForMaskedLM": bert.SWITCHES}
# The `model_type` of published models that our encoder computes.
MODEL_TYPES = (modernbert.MODEL_TYPE, *bert.FAMILIES)
CONFIG_FILE = "config.json"


def hf_class(model: ModelConfig) -> str:
    """Return the name of the class of Transformers that computes this model.

    Raises:
        ValueError: There is none; the message names what each class lacks.
    """
    lacking = {
        name: [
            f"model.{field} {_yaml(getattr(model, field))} (has {' and '.join(map(_yaml, values))})"
            for field, values in switches.items()
            if getattr(model, field) not in values
        ]
        for name, switches in CLASSES.items()
    }
    for name, fields in lacking.items():
        if not fields:
            return name
    reasons = "; ".join(f"{name} lacks {', '.join(fields)}" for name, fields in lacking.items())
    raise ValueError(
        f"no class of Transformers computes this model, so it cannot be exported: {reasons}; train with the "
        "settings of one of them, or use the checkpoint itself with `modernbert evaluate` and init.from"
    )


def to_hf_config(
    model: ModelConfig, global_theta: float, local_theta: float, tokenizer: TokenizerInfo
) -> dict[str, Any]:
    """Return the `config.json` of a model with the RoPE thetas of its last phase.

    Raises:
        ValueError: See `hf_class`.
    """
    if _is_bert(model):
        return bert.to_bert_config(model, tokenizer)
    return modernbert.to_modernbert_config(model, global_theta, local_theta, tokenizer)


def to_hf_weights(state_dict: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Return the weights under Transformers' names, without the decoder's matrix, which is the embedding."""
    untied = {name: weight for name, weight in state_dict.items() if name != TIED_WEIGHT}
    return bert.to_bert_weights(untied, model) if _is_bert(model) else untied


def read_hf_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a Hugging Face folder.

    Returns:
        Its content.

    Raises:
        ValueError: It is missing, unreadable, or the model is none that our encoder can compute.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; name a folder with config.json, model.safetensors and tokenizer.json"
        )
    content = read_json(file)
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise ValueError(
            f"{file}: model_type is {model_type!r:.100}; only models of these types can be read: "
            f"{', '.join(MODEL_TYPES)}"
        )
    return dict(content)


def from_hf_config(content: dict[str, Any], file: Path) -> ModelConfig:
    """Return our architecture for the content of a `config.json`. Missing fields have Transformers' defaults.

    Args:
        content: The content.
        file: Its path, for error messages.

    Raises:
        ValueError: A field has a value of another type, or our encoder does not support the model; the message lists
            every reason, such as another activation, an untied decoder, biases in some modules only, scaled RoPE, an
            irregular alternation of layers.
    """
    if _is_modernbert(content):
        return modernbert.from_modernbert_config(content, file)
    return bert.from_bert_config(content, file)


def config_notes(content: dict[str, Any]) -> list[str]:
    """Return a line about each field that was read but has no effect on our training."""
    return list(dropout_note(content))


def hf_layout(content: dict[str, Any], model: ModelConfig) -> Layout:
    """Return the names and shapes of the weights of a published model, which `from_hf_config` read."""
    return (
        modernbert.modernbert_layout(model) if _is_modernbert(content) else bert.bert_layout(content, model)
    )


def from_hf_weights(loaded: dict[str, Tensor], content: dict[str, Any], layout: Layout) -> dict[str, Tensor]:
    """Return published weights, under the names of their layout, as ours; those of a missing head are missing."""
    if not _is_modernbert(content):
        loaded = bert.fold_positions(loaded, content)
    return {
        name: torch.cat([loaded[part] for part in parts])
        for name, parts in layout.parts.items()
        if all(part in loaded for part in parts)
    }


def first_position(content: dict[str, Any]) -> int:
    """Return the position of the first token of a document: 0 but for RoBERTa and its like."""
    return bert.first_position(content) if content.get("model_type") in bert.FAMILIES else 0


def _is_modernbert(content: dict[str, Any]) -> bool:
    return content["model_type"] == modernbert.MODEL_TYPE


def _is_bert(model: ModelConfig) -> bool:
    return hf_class(model) == "BertForMaskedLM"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
