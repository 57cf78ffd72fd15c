"""The parts of conversion that the configs of ModernBERT and BERT share."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modernbert_train.config import ModelConfig
from modernbert_train.store.manifest import TokenizerInfo

REQUIRED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
DROPOUTS = ("embedding_dropout", "attn_out_dropout", "mlp_out_dropout")


def special_ids(tokenizer: TokenizerInfo) -> dict[str, int]:
    """Return the ids of special tokens under Transformers' names."""
    return {
        "pad_token_id": tokenizer.pad_id,
        "cls_token_id": tokenizer.cls_id,
        "sep_token_id": tokenizer.sep_id,
        "mask_token_id": tokenizer.mask_id,
        "bos_token_id": tokenizer.cls_id,
        "eos_token_id": tokenizer.sep_id,
    }


def as_json(config: Any) -> dict[str, Any]:
    """Return the content of config.json for a config of Transformers, with `dtype` under both its names."""
    return {**json.loads(config.to_json_string()), "torch_dtype": "float32", "dtype": "float32"}


def pretraining_dropouts(model: ModelConfig) -> dict[str, float]:
    """Return our dropout rates under separate names, which Transformers keeps but does not use.

    They apply only in pretraining, and in places where Transformers' classes have no dropout, or one rate for all.
    """
    return {f"pretraining_{name}": getattr(model, name) for name in DROPOUTS}


def read_dropouts(content: dict[str, Any], default: float | None = None) -> dict[str, Any]:
    """Read the fields of `pretraining_dropouts`.

    Args:
        content: The content of config.json.
        default: The rate of a model that we did not export. None: our defaults.

    Returns:
        Fields of `ModelConfig` and their values.
    """
    defaults = {name: getattr(ModelConfig, name) if default is None else default for name in DROPOUTS}
    return {name: content.get(f"pretraining_{name}", rate) for name, rate in defaults.items()}


def unsupported_values(content: dict[str, Any], fixed: dict[str, Any]) -> Iterator[str]:
    """Yield a problem for each field of `content` whose value is not the one in `fixed`; missing fields pass."""
    for name, value in fixed.items():
        if name in content and content[name] != value:
            yield f"{name} is {content[name]!r}, supported is {value!r}"


def uneven_heads(content: dict[str, Any]) -> Iterator[str]:
    """Yield a problem if the number of heads does not divide the hidden size."""
    hidden, heads = content["hidden_size"], content["num_attention_heads"]
    if hidden % heads != 0:
        yield f"hidden_size {hidden} is not a multiple of {heads} heads"


def refuse(problems: Sequence[str], file: Path) -> None:
    """Report problems of a config.

    Raises:
        ValueError: There are any.
    """
    if problems:
        raise ValueError(f"{file}: this model is not supported: {'; '.join(problems)}")
