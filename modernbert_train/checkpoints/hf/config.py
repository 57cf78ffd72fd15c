"""Which class of Transformers computes a model of ours, and the ways there and back: `config.json` and weights."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from modernbert_train.checkpoints.hf import bert, modernbert
from modernbert_train.checkpoints.hf.fields import REQUIRED_FIELDS
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import TIED_WEIGHT
from modernbert_train.store.manifest import TokenizerInfo

# Class -> the settings that it computes.
CLASSES = {"ModernBertForMaskedLM": modernbert.SWITCHES, "BertForMaskedLM": bert.SWITCHES}
MODEL_TYPES = {"modernbert": "ModernBertForMaskedLM", "bert": "BertForMaskedLM"}


def hf_class(model: ModelConfig) -> str:
    """The class of Transformers that computes this model.

    ValueError if there is none names what each class lacks.
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
        "settings of one of them, or stay with the checkpoint, which `modernbert evaluate` and init.from read"
    )


def to_hf_config(
    model: ModelConfig, global_theta: float, local_theta: float, tokenizer: TokenizerInfo
) -> dict[str, Any]:
    """`config.json` of a model with the RoPE thetas of its last phase. Errors: see `hf_class`."""
    if _is_bert(model):
        return bert.to_bert_config(model, tokenizer)
    return modernbert.to_modernbert_config(model, global_theta, local_theta, tokenizer)


def to_hf_weights(state_dict: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The weights under Transformers' names, each once: without the decoder's matrix, the embedding."""
    untied = {name: weight for name, weight in state_dict.items() if name != TIED_WEIGHT}
    return bert.to_bert_weights(untied, model) if _is_bert(model) else untied


def read_hf_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a Hugging Face folder. ValueError: missing, unreadable, or neither ModernBERT nor BERT."""
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
    """Our architecture for the `config.json` that `content` holds; `file` is named in errors.

    ValueError lists everything our encoder cannot express: other activations, dropouts, untied decoder, biases
    here and there, scaled RoPE, an irregular alternation of layers.
    """
    missing = [name for name in REQUIRED_FIELDS if name not in content]
    if missing:
        raise ValueError(
            f"{file}: lacks {', '.join(missing)}; take the config.json that was published with the weights"
        )
    if content.get("model_type") == "bert":
        return bert.from_bert_config(content, file)
    return modernbert.from_modernbert_config(content, file)


def from_hf_weights(loaded: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The weights of a Hugging Face folder under our names; those that have no place here keep theirs."""
    return bert.from_bert_weights(loaded, model) if _is_bert(model) else loaded


def _is_bert(model: ModelConfig) -> bool:
    return hf_class(model) == "BertForMaskedLM"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
