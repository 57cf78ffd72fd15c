"""Facts about a model that follow from its config alone: its weights, its size, its layers, and how to describe it.

Imports no torch, so that a dry run is fast.
"""

from math import prod

from modernbert_train.config.quantities import format_tokens
from modernbert_train.config.schema import MLPS, MODEL_SWITCHES, NORMS, ModelConfig

# Fields that decide which weights a model has and what it computes with them. Dropout and initialization belong to the
# training, and each phase sets its RoPE thetas.
ARCHITECTURE_FIELDS = (
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
EMBEDDING = "model.embeddings.tok_embeddings.weight"
POSITION_EMBEDDING = "model.embeddings.position_embeddings.weight"
TIED_WEIGHT = "decoder.weight"  # the state dict's second name for the embedding
DECODER_BIAS = "decoder.bias"
# Far above every model; a number beyond it would keep the program busy before any weight is compared.
MAX_LAYERS = 1_000


def is_gated(model: ModelConfig) -> bool:
    """Check whether the MLP has a gate: its first matrix, Wi, then holds two matrices, value and gate."""
    return MLPS[model.mlp].is_gated


def num_global_layers(model: ModelConfig) -> int:
    """Return the number of layers with global attention: 0, n, 2n, ...; the others see a window."""
    return len(range(0, model.num_hidden_layers, model.global_attn_every_n_layers))


def unread_fields(model: ModelConfig) -> set[str]:
    """Return the fields of a model, or of its phases, that have no effect: unused windows and RoPE thetas."""
    unread = set()
    if num_global_layers(model) == model.num_hidden_layers:
        unread |= {"local_attention", "local_rope_theta"}
    if model.positions != "rope":
        unread |= {"global_rope_theta", "local_rope_theta"}
    return unread


def weight_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the model's state dict, in its order. Shapes are [outputs, inputs]."""
    hidden, inner = model.hidden_size, model.intermediate_size

    def linear(name: str, outputs: int, inputs: int, bias: bool = model.bias) -> dict[str, tuple[int, ...]]:
        weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
        return weight | {f"{name}.bias": (outputs,)} if bias else weight

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        kinds = NORMS[model.norm].weights
        return {f"{name}.{kind}": (hidden,) for kind in kinds if kind != "bias" or model.bias}

    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (model.vocab_size, hidden)}
    if model.positions == "learned":
        shapes[POSITION_EMBEDDING] = (model.max_position_embeddings, hidden)
    shapes |= norm("model.embeddings.norm")
    for number in range(model.num_hidden_layers):
        layer = f"model.layers.{number}"
        # In a pre-norm encoder, the embedding has already normed the input of the first layer.
        if number > 0 or model.norm_placement == "post":
            shapes |= norm(f"{layer}.attn_norm")
        shapes |= linear(f"{layer}.attn.Wqkv", 3 * hidden, hidden)
        shapes |= linear(f"{layer}.attn.Wo", hidden, hidden)
        if not model.parallel_block:
            shapes |= norm(f"{layer}.mlp_norm")
        shapes |= linear(f"{layer}.mlp.Wi", 2 * inner if is_gated(model) else inner, hidden)
        shapes |= linear(f"{layer}.mlp.Wo", hidden, inner)
    if model.norm_placement == "pre":
        shapes |= norm("model.final_norm")
    shapes |= linear("head.dense", hidden, hidden) | norm("head.norm")
    return shapes | linear("decoder", model.vocab_size, hidden, bias=True)


def num_parameters(model: ModelConfig) -> int:
    """Return the number of parameters; the decoder shares the embedding's matrix."""
    return sum(prod(shape) for name, shape in weight_shapes(model).items() if name != TIED_WEIGHT)


def num_hidden_weights(model: ModelConfig) -> int:
    """Return the number of elements in the matrices between embedding and decoder, those of layers and head."""
    tables = (EMBEDDING, POSITION_EMBEDDING, TIED_WEIGHT)
    shapes = weight_shapes(model).items()
    return sum(prod(shape) for name, shape in shapes if len(shape) == 2 and name not in tables)


def describe_few_tokens(model: ModelConfig, num_tokens: int) -> str | None:
    """Return what a run from random weights with fewer tokens than parameters comes to; None for a longer run."""
    parameters = num_parameters(model)
    if num_tokens >= parameters:
        return None
    return (
        f"the run has fewer tokens ({format_tokens(num_tokens)}) than the model has parameters "
        f"({format_tokens(parameters)}), and so, as a rule of thumb, learns little more than how frequent tokens are"
    )


def describe_model(model: ModelConfig) -> str:
    """Return size and shape of a model in one line, with the switches that differ from ModernBERT's."""
    layers = model.num_hidden_layers
    num_global = num_global_layers(model)
    reach = f"{num_global} global, the others {model.local_attention // 2} tokens to either side"
    parts = [
        f"{num_parameters(model):,} parameters: {layers} layers ({reach if num_global < layers else 'all global'})",
        f"hidden {model.hidden_size:,}",
        f"{model.num_attention_heads} heads",
        f"{mlp_name(model)} {model.intermediate_size:,}",
        f"vocabulary {model.vocab_size:,}",
    ]
    return ", ".join(parts + describe_switches(model))


def mlp_name(model: ModelConfig) -> str:
    """Return the name of the MLP as papers write it, such as GeGLU."""
    return MLPS[model.mlp].display_name


def describe_switches(model: ModelConfig) -> list[str]:
    """Return the switches, MLP and windows aside, that differ from ModernBERT's, in words."""
    differs = {
        "post-norm": model.norm_placement == "post",
        NORMS[model.norm].display_name: model.norm != ModelConfig.norm,
        "learned positions": model.positions == "learned",
        "no positions": model.positions == "none",
        "biases": model.bias,
        "attention and MLP in parallel": model.parallel_block,
    }
    return [words for words, holds in differs.items() if holds]
