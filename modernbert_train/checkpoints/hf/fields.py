"""The parts of conversion that the configs of all published architectures share."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import MAX_LAYERS
from modernbert_train.store.manifest import TokenizerInfo

# Fields with the same name and meaning in all of them and in our config.
SIZE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
DROPOUTS = ("embedding_dropout", "attn_out_dropout", "mlp_out_dropout")

# The limits are far above every model; a number beyond them would keep the program busy before any weight is compared.
_WHOLE_NUMBERS = {
    **dict.fromkeys(SIZE_FIELDS, 2**31 - 1),
    "num_hidden_layers": MAX_LAYERS,
    "max_position_embeddings": 2**31 - 1,
    "local_attention": 2**31 - 1,
    "global_attn_every_n_layers": 2**31 - 1,
    "type_vocab_size": 2**31 - 1,
}
_POSITIVE_NUMBERS = ("norm_eps", "layer_norm_eps", "initializer_range", "initializer_cutoff_factor")
_TRUE_OR_FALSE = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
# Dropout in training, in the words of BERT and of ModernBERT.
PUBLISHED_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embedding_dropout",
    "attention_dropout",
    "mlp_dropout",
)
_SHARES = (*PUBLISHED_DROPOUTS, *(f"pretraining_{name}" for name in DROPOUTS))


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


def dropout_note(content: dict[str, Any]) -> Iterator[str]:
    """Yield a line about the dropout of the published model's training, if there was any."""
    rates = [f"{name} {content[name]:g}" for name in PUBLISHED_DROPOUTS if content.get(name)]
    if rates:
        yield (
            f"config.json has {', '.join(rates)}: the dropout of its training, which changes no logit; a recipe sets "
            f"its own, {', '.join(f'model.{name}' for name in DROPOUTS)}, and has none inside the attention"
        )


def with_defaults(content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the content with the defaults of Transformers for those of the fields that it lacks."""
    from transformers import CONFIG_MAPPING  # takes seconds to import, and training does not need it

    defaults = CONFIG_MAPPING[content["model_type"]]()
    return {name: getattr(defaults, name) for name in names} | content


def wrong_types(content: dict[str, Any]) -> Iterator[str]:
    """Yield a problem for each field with a value of another type, or out of range."""
    for name, limit in _WHOLE_NUMBERS.items():
        # Transformers does not read it where there are layer_types.
        may_be_null = name == "global_attn_every_n_layers" and content.get(name) is None
        if name in content and not may_be_null and not _is_whole(content[name], 1, limit):
            yield f"{name} is {_short(content[name])}, expected a whole number from 1 to {limit:,}"
    for name in _POSITIVE_NUMBERS:
        if name in content and not (is_number(content[name]) and content[name] > 0):
            yield f"{name} is {_short(content[name])}, expected a number above 0"
    for name in _SHARES:
        if name in content and not (is_number(content[name]) and 0 <= content[name] < 1):
            yield f"{name} is {_short(content[name])}, expected a number from 0 to below 1"
    for name in _TRUE_OR_FALSE:
        if name in content and not isinstance(content[name], bool):
            yield f"{name} is {_short(content[name])}, expected true or false"


def is_number(value: object) -> bool:
    """Check whether a value from JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _is_whole(value: object, least: int, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= limit


def pad_id_problem(content: dict[str, Any]) -> Iterator[str]:
    """Yield a problem if `pad_token_id` is not a token id."""
    if not _is_whole(content["pad_token_id"], 0, 2**31 - 1):
        yield f"pad_token_id is {_short(content['pad_token_id'])}, expected a token id"


def unsupported_values(content: dict[str, Any], fixed: dict[str, Any]) -> Iterator[str]:
    """Yield a problem for each field of `content` whose value is not the one in `fixed`; missing fields pass."""
    for name, value in fixed.items():
        if name in content and content[name] != value:
            yield f"{name} is {_short(content[name])}, supported is {value!r}"


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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
