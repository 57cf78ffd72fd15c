"""What the configs of Transformers' models have in common, seen from ours."""

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
    """The ids of special tokens under Transformers' names."""
    return {
        "pad_token_id": tokenizer.pad_id,
        "cls_token_id": tokenizer.cls_id,
        "sep_token_id": tokenizer.sep_id,
        "mask_token_id": tokenizer.mask_id,
        "bos_token_id": tokenizer.cls_id,
        "eos_token_id": tokenizer.sep_id,
    }


def pretraining_dropouts(model: ModelConfig) -> dict[str, float]:
    """Our dropouts under names of their own, which Transformers keeps and does not use.

    They exist while pretraining only, and in places where Transformers' classes have none, or one rate for all.
    """
    return {f"pretraining_{name}": getattr(model, name) for name in DROPOUTS}


def read_dropouts(content: dict[str, Any], default: float | None = None) -> dict[str, Any]:
    """The inverse; for a model that is not an export of ours `default`, or with None the defaults of ours."""
    defaults = {name: getattr(ModelConfig, name) if default is None else default for name in DROPOUTS}
    return {name: content.get(f"pretraining_{name}", rate) for name, rate in defaults.items()}


def differences(content: dict[str, Any], fixed: dict[str, Any]) -> Iterator[str]:
    """Yields the fields of `content` that are not what `fixed` asks for; those that are not there are."""
    for name, value in fixed.items():
        if name in content and content[name] != value:
            yield f"{name} is {content[name]!r}, supported is {value!r}"


def uneven_heads(content: dict[str, Any]) -> Iterator[str]:
    """Yields a problem if the heads do not divide the hidden size."""
    hidden, heads = content["hidden_size"], content["num_attention_heads"]
    if hidden % heads != 0:
        yield f"hidden_size {hidden} is no multiple of {heads} heads"


def refuse(problems: Sequence[str], file: Path) -> None:
    """ValueError if there are any."""
    if problems:
        raise ValueError(f"{file}: this model cannot be trained here: {'; '.join(problems)}")
