"""What makes two models the same one, and which settings nothing in a model reads."""

from modernbert_train.config.schema import MODEL_SWITCHES, ModelConfig
from modernbert_train.config.settings import changes

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
