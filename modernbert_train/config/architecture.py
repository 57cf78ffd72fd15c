"""What makes two models the same one, and which settings nothing in a model reads."""

from collections.abc import Mapping
from typing import Any

import yaml

from modernbert_train.config.loading import dump_recipe
from modernbert_train.config.schema import MODEL_SWITCHES, ModelConfig, Recipe

# Dropout and initialization are the training's; RoPE thetas are the phases' to set.
_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "local_attention",
    "global_attn_every_n_layers",
    "norm_eps",
    *MODEL_SWITCHES,
)


def architecture(model: ModelConfig) -> dict[str, object]:
    """Dotted key -> value of the fields that a model's weights, or what it computes with them, depend on."""
    # Learned positions are a table of this length; of others it is no more than a limit.
    fields = (*_FIELDS, "max_position_embeddings") if model.positions == "learned" else _FIELDS
    return {f"model.{field}": getattr(model, field) for field in fields}


def num_global_layers(model: ModelConfig) -> int:
    """Layers 0, n, 2n, ...; the others see a window."""
    return len(range(0, model.num_hidden_layers, model.global_attn_every_n_layers))


def unread_fields(model: ModelConfig) -> set[str]:
    """Fields of a model, or of its phases, that nothing reads: windows no layer has, thetas that rotate nothing."""
    unread = set()
    if num_global_layers(model) == model.num_hidden_layers:
        unread |= {"local_attention", "local_rope_theta"}
    if model.positions != "rope":
        unread |= {"global_rope_theta", "local_rope_theta"}
    return unread


def differences(there: ModelConfig, here: ModelConfig) -> dict[str, tuple[object, object]]:
    """Dotted key -> values of the fields in which two architectures differ."""
    return changes(architecture(there), architecture(here))


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value of every field, as its YAML has it."""
    return flatten(yaml.safe_load(dump_recipe(recipe)))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> values of the settings in which two sets differ; None for one that is missing."""
    keys = dict.fromkeys([*then, *now])
    return {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}


MLP_NAMES = {"geglu": "GeGLU", "swiglu": "SwiGLU", "gelu": "GELU"}


def num_parameters(model: ModelConfig) -> int:
    """Returns the number of parameters. The decoder has the embedding's matrix and a bias of its own.

    A layer: Wqkv and Wo (4 d^2), MLP (3 d I, without a gate 2 d I), two norms, one in a parallel block. Outside:
    the embedding and its norm, learned positions, the head's matrix and norm. Pre-norm, the first attention
    has no norm and the last layer one after it.
    """
    hidden, layers, inner = model.hidden_size, model.num_hidden_layers, model.intermediate_size
    norm = hidden * (2 if model.bias and model.norm == "layernorm" else 1)
    num_norms = layers * (1 if model.parallel_block else 2) + 2

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + model.bias) * outputs

    mlp = linear(hidden, inner if model.mlp == "gelu" else 2 * inner) + linear(inner, hidden)
    matrices = layers * (linear(hidden, 3 * hidden) + linear(hidden, hidden) + mlp) + linear(hidden, hidden)
    positions = model.max_position_embeddings * hidden if model.positions == "learned" else 0
    return model.vocab_size * (hidden + 1) + positions + matrices + num_norms * norm


def num_hidden_weights(model: ModelConfig) -> int:
    """Returns how many of the parameters are in matrices between embedding and decoder: those of layers and head."""
    mlp_matrices = 2 if model.mlp == "gelu" else 3
    layer = 4 * model.hidden_size**2 + mlp_matrices * model.hidden_size * model.intermediate_size
    return model.num_hidden_layers * layer + model.hidden_size**2


def describe_model(model: ModelConfig) -> str:
    """Returns size and shape of a model in one line, with the switches in which it is no ModernBERT."""
    layers = model.num_hidden_layers
    num_global = num_global_layers(model)
    reach = f"{num_global} global, the others {model.local_attention // 2} tokens to either side"
    parts = [
        f"{num_parameters(model):,} parameters: {layers} layers ({reach if num_global < layers else 'all global'})",
        f"hidden {model.hidden_size:,}",
        f"{model.num_attention_heads} heads",
        f"{MLP_NAMES[model.mlp]} {model.intermediate_size:,}",
        f"vocabulary {model.vocab_size:,}",
    ]
    return ", ".join(parts + describe_switches(model))


def describe_switches(model: ModelConfig) -> list[str]:
    """Returns what, beside the MLP and the windows, is not as in ModernBERT; nothing where all is."""
    said = {
        "post-norm": model.norm_placement == "post",
        "RMSNorm": model.norm == "rmsnorm",
        "learned positions": model.positions == "learned",
        "no positions": model.positions == "none",
        "biases": model.bias,
        "attention and MLP in parallel": model.parallel_block,
    }
    return [words for words, holds in said.items() if holds]
