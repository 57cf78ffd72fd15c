"""Convert our architecture to the `config.json` of Transformers' `ModernBertForMaskedLM`, and back.

Transformers 5 describes the alternation of layers and RoPE in `layer_types` and `rope_parameters`; 4.48 to 4.57, and
other programs, read `global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta`. An exported config has
both forms, so that all of them build the same model; an imported one may have either.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modernbert_train.checkpoints.hf.fields import (
    SIZE_FIELDS,
    as_json,
    is_number,
    pretraining_dropouts,
    read_dropouts,
    refuse,
    special_ids,
    uneven_heads,
    unsupported_values,
    with_defaults,
    wrong_types,
)
from modernbert_train.checkpoints.hf.layout import Layout
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT, weight_shapes
from modernbert_train.store.manifest import TokenizerInfo

MODEL_TYPE = "modernbert"

# Fields with the same name and meaning in our config and Transformers'.
SHARED_FIELDS = (
    *SIZE_FIELDS,
    "local_attention",
    "norm_eps",
    "initializer_range",
    "initializer_cutoff_factor",
    "max_position_embeddings",
)

# The only values that our encoder supports. `classifier_activation` also shapes the masked-LM head.
FIXED_FIELDS: dict[str, Any] = {
    "classifier_activation": "gelu",
    "tie_word_embeddings": True,
}

# Our config has one field for all of them, `bias`.
BIAS_FIELDS = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
# Our `mlp` -> `hidden_activation`; ModernBERT's MLP always has a gate.
ACTIVATIONS = {"geglu": "gelu", "swiglu": "silu"}

# Our settings that the class supports.
SWITCHES: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",),
    "norm_placement": ("pre",),
    "mlp": tuple(ACTIVATIONS),
    "positions": ("rope",),
    "parallel_block": (False,),
}


def to_modernbert_config(
    model: ModelConfig, global_theta: float, local_theta: float, tokenizer: TokenizerInfo
) -> dict[str, Any]:
    """Return the `config.json` of a model with the RoPE thetas of its last phase, not those in `model`."""
    from transformers import ModernBertConfig  # takes seconds to import, and training does not need it

    config = ModernBertConfig(
        **{name: getattr(model, name) for name in SHARED_FIELDS},
        **FIXED_FIELDS,
        decoder_bias=True,
        attention_dropout=0.0,
        embedding_dropout=0.0,
        mlp_dropout=0.0,
        **dict.fromkeys(BIAS_FIELDS, model.bias),
        hidden_activation=ACTIVATIONS[model.mlp],
        global_attn_every_n_layers=model.global_attn_every_n_layers,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": float(global_theta)},
            "sliding_attention": {"rope_type": "default", "rope_theta": float(local_theta)},
        },
        classifier_pooling="mean",  # as in the published ModernBERTs
        classifier_dropout=0.0,
        **special_ids(tokenizer),
        architectures=["ModernBertForMaskedLM"],
        # Read by vLLM until 0.11 and by Candle, and in the config.json of the published ModernBERTs.
        layer_norm_eps=model.norm_eps,
        position_embedding_type="absolute",
        **pretraining_dropouts(model),
    )
    older_form = {"global_rope_theta": float(global_theta), "local_rope_theta": float(local_theta)}
    return dict(sorted((as_json(config) | older_form).items()))


def from_modernbert_config(content: dict[str, Any], file: Path) -> ModelConfig:
    """Return our architecture for ModernBERT's `config.json`; see `hf.config.from_hf_config`."""
    content = with_defaults(content, SHARED_FIELDS)
    refuse(list(wrong_types(content)), file)
    problems = [*unsupported_values(content, FIXED_FIELDS), *_switch_problems(content)]
    every_n, layer_problems = _global_attn_every_n_layers(content)
    thetas, theta_problems = _rope_thetas(content)
    problems += layer_problems + theta_problems
    if content["local_attention"] % 2 != 0:
        problems.append(f"local_attention is {content['local_attention']}, supported are even widths")
    problems += uneven_heads(content)
    refuse(problems, file)
    return ModelConfig(
        **{name: content[name] for name in SHARED_FIELDS},
        global_attn_every_n_layers=every_n,
        global_rope_theta=thetas["full_attention"],
        local_rope_theta=thetas["sliding_attention"],
        bias=content.get("norm_bias", False),
        mlp="swiglu" if content.get("hidden_activation") == ACTIVATIONS["swiglu"] else "geglu",
        **read_dropouts(content),
    )


def modernbert_layout(model: ModelConfig) -> Layout:
    """Return the names and shapes of the weights, which are ours."""
    bare = {name: name.removeprefix("model.") for name in weight_shapes(model) if name != TIED_WEIGHT}
    shapes = {bare[name]: shape for name, shape in weight_shapes(model).items() if name in bare}
    return Layout(
        prefix="model.",
        encoder=("embeddings.", "layers.", "final_norm."),
        head=("head.", "decoder."),
        parts={name: (part,) for name, part in bare.items()},
        shapes=shapes,
        twins={TIED_WEIGHT: bare[EMBEDDING]},
    )


def _switch_problems(content: dict[str, Any]) -> Iterator[str]:
    activation = content.get("hidden_activation", "gelu")
    if activation not in ACTIVATIONS.values():
        yield f"hidden_activation is {activation!r}, supported are {', '.join(ACTIVATIONS.values())}"
    biases = {name: content.get(name, False) for name in BIAS_FIELDS}
    if len(set(biases.values())) > 1:
        yield (
            ", ".join(f"{name} is {value}" for name, value in biases.items())
            + ", supported is true or false for all of them"
        )


def _global_attn_every_n_layers(content: dict[str, Any]) -> tuple[int, list[str]]:
    num_layers, layer_types = content["num_hidden_layers"], content.get("layer_types")
    every_n = content.get("global_attn_every_n_layers")
    if layer_types is None:
        return every_n or ModelConfig.global_attn_every_n_layers, []
    if not isinstance(layer_types, list):
        return 1, [
            f"layer_types is {layer_types!r}, expected a list with one kind of attention for each layer"
        ]
    if every_n is None:
        is_global = [kind == "full_attention" for kind in layer_types]
        every_n = is_global.index(True, 1) if True in is_global[1:] else num_layers
    regular = ["sliding_attention" if layer % every_n else "full_attention" for layer in range(num_layers)]
    if layer_types != regular:
        return every_n, [
            f"layer_types is not 'full_attention in layers 0, {every_n}, {2 * every_n}, ...': {layer_types!s:.300}"
        ]
    return every_n, []


def _rope_thetas(content: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Return the theta of each layer type, and problems; the newer form takes precedence, as in Transformers."""
    newer = content.get("rope_parameters") or {}
    thetas: dict[str, float] = {}
    problems: list[str] = []
    if not _is_by_kind(newer):
        problems.append(
            f"rope_parameters is {newer!r:.300}, supported is an object for each of full_attention and "
            "sliding_attention"
        )
        newer = {}
    if content.get("rope_scaling"):
        problems.append(f"rope_scaling is {content['rope_scaling']!r}, supported is none")
    for kind, older_name, default in (
        ("full_attention", "global_rope_theta", 160_000.0),
        ("sliding_attention", "local_rope_theta", 10_000.0),
    ):
        parameters = newer.get(kind) or {}
        theta = parameters.get("rope_theta", content.get(older_name, default))
        unknown = {
            k: v for k, v in parameters.items() if (k, v) != ("rope_type", "default") and k != "rope_theta"
        }
        if unknown:
            problems.append(
                f"rope_parameters of {kind} has {unknown}, supported is rope_type 'default' and rope_theta"
            )
        # Other trainers have exported -1 or null for "same as global"; guessing that has led to NaN.
        if not is_number(theta) or theta <= 0:
            problems.append(
                f"{older_name} is {theta!r}, which is not a RoPE theta; write the value it was trained with"
            )
        else:
            thetas[kind] = float(theta)
    return thetas, problems


def _is_by_kind(rope_parameters: object) -> bool:
    return (
        isinstance(rope_parameters, dict)
        and rope_parameters.keys() <= {"full_attention", "sliding_attention"}
        and all(isinstance(parameters, dict | None) for parameters in rope_parameters.values())
    )
