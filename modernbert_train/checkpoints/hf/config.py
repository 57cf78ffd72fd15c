"""Convert architecture and weights between ours and the class of Transformers that computes the same model."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from modernbert_train.checkpoints.hf import bert, modernbert
from modernbert_train.checkpoints.hf.fields import REQUIRED_FIELDS
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import TIED_WEIGHT
from modernbert_train.store.manifest import TokenizerInfo

# Class -> the settings that it supports.
CLASSES = {"ModernBertForMaskedLM": modernbert.SWITCHES, "BertForMaskedLM": bert.SWITCHES}
MODEL_TYPES = {"modernbert": "ModernBertForMaskedLM", "bert": "BertForMaskedLM"}


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
        ValueError: It is missing, unreadable, or the model is neither ModernBERT nor BERT.
    """
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{file} does not exist; name a folder with config.json, model.safetensors and tokenizer.json"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error})") from error
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if model_type not in MODEL_TYPES:
        known = " and ".join(map(repr, MODEL_TYPES))
        raise ValueError(f"{file}: model_type is {model_type!r}; only {known} can be imported")
    return content


def from_hf_config(content: dict[str, Any], file: Path) -> ModelConfig:
    """Return our architecture for the content of a `config.json`.

    Args:
        content: The content.
        file: Its path, for error messages.

    Raises:
        ValueError: Our encoder does not support the model; the message lists every reason, such as another activation
            or dropout, an untied decoder, biases in some modules only, scaled RoPE, an irregular alternation of layers.
    """
    missing = [name for name in REQUIRED_FIELDS if name not in content]
    if missing:
        raise ValueError(
            f"{file}: lacks {', '.join(missing)}; use the config.json that was published with the weights"
        )
    if content.get("model_type") == "bert":
        return bert.from_bert_config(content, file)
    return modernbert.from_modernbert_config(content, file)


def from_hf_weights(loaded: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Return the weights of a Hugging Face folder under our names; unknown ones keep their names."""
    return bert.from_bert_weights(loaded, model) if _is_bert(model) else loaded


def _is_bert(model: ModelConfig) -> bool:
    return hf_class(model) == "BertForMaskedLM"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
