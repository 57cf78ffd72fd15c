"""How large a model is, and which one, in words: for the dry run and the model card."""

from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import num_global_layers

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
