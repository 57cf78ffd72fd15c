"""Our architecture as Transformers' `config.json`, and back.

Transformers 5 spells the alternation of layers and RoPE as `layer_types` and `rope_parameters`; 4.48 to 4.57
read `global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta`. An exported config carries both
spellings, so that old and new versions build the same model; an imported one may carry either.
"""

import json
from pathlib import Path
from typing import Any

from transformers import ModernBertConfig

from modernbert_train.config import ModelConfig
from modernbert_train.data.manifest import TokenizerInfo

# Fields that our config and Transformers' spell alike and mean alike.
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "local_attention",
    "norm_eps",
    "initializer_range",
    "initializer_cutoff_factor",
    "max_position_embeddings",
)

# The one value our encoder computes. `classifier_activation` and `classifier_bias` also shape the masked-LM
# head.
FIXED_FIELDS: dict[str, Any] = {
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "decoder_bias": True,
    "classifier_bias": False,
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "tie_word_embeddings": True,
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "mlp_dropout": 0.0,
}

# Dropout after attention exists only while pretraining. Transformers would apply its `attention_dropout`
# inside the attention too, so ours travels under a name of its own, which Transformers keeps and does not
# use.
DROPOUT_FIELD = "pretraining_attn_out_dropout"

REQUIRED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


def to_hf_config(
    model: ModelConfig, global_theta: float, local_theta: float, tokenizer: TokenizerInfo
) -> dict[str, Any]:
    """`config.json` of a model with the RoPE thetas of its last phase, not those in `model`."""
    ids = {
        "pad": tokenizer.pad_id,
        "cls": tokenizer.cls_id,
        "sep": tokenizer.sep_id,
        "mask": tokenizer.mask_id,
    }
    config = ModernBertConfig(
        **{name: getattr(model, name) for name in SHARED_FIELDS},
        **FIXED_FIELDS,
        global_attn_every_n_layers=model.global_attn_every_n_layers,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": float(global_theta)},
            "sliding_attention": {"rope_type": "default", "rope_theta": float(local_theta)},
        },
        classifier_pooling="mean",  # as in the released ModernBERTs
        classifier_dropout=0.0,
        **{f"{role}_token_id": token_id for role, token_id in ids.items()},
        bos_token_id=tokenizer.cls_id,
        eos_token_id=tokenizer.sep_id,
        architectures=["ModernBertForMaskedLM"],
        dtype="float32",
        **{DROPOUT_FIELD: model.attn_out_dropout},
    )
    older_spelling = {"global_rope_theta": float(global_theta), "local_rope_theta": float(local_theta)}
    return dict(sorted({**json.loads(config.to_json_string()), **older_spelling}.items()))


def read_hf_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a Hugging Face folder. ValueError: missing, unreadable, or no ModernBERT."""
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
    if model_type != "modernbert":
        raise ValueError(f"{file}: model_type is {model_type!r}; only 'modernbert' can be imported")
    return content


def from_hf_config(content: dict[str, Any], file: Path) -> ModelConfig:
    """Our architecture for the `config.json` that `content` holds; `file` is named in errors.

    ValueError lists everything our encoder cannot express: other biases, activations, dropouts, untied
    decoder, scaled RoPE, an irregular alternation of layers.
    """
    missing = [name for name in REQUIRED_FIELDS if name not in content]
    if missing:
        raise ValueError(
            f"{file}: lacks {', '.join(missing)}; take the config.json that was published with the weights"
        )
    problems = [
        f"{name} is {content[name]!r}, supported is {value!r}"
        for name, value in FIXED_FIELDS.items()
        if name in content and content[name] != value
    ]
    every_n, layer_problems = _global_attn_every_n_layers(content)
    thetas, theta_problems = _rope_thetas(content)
    problems += layer_problems + theta_problems
    if content.get("local_attention", 0) % 2 != 0:
        problems.append(f"local_attention is {content['local_attention']}, supported are even widths")
    if content["hidden_size"] % content["num_attention_heads"] != 0:
        problems.append(
            f"hidden_size {content['hidden_size']} is no multiple of {content['num_attention_heads']} heads"
        )
    if problems:
        raise ValueError(f"{file}: this model cannot be trained here: {'; '.join(problems)}")
    shared = {name: content[name] for name in SHARED_FIELDS if name in content}
    return ModelConfig(
        **shared,
        global_attn_every_n_layers=every_n,
        global_rope_theta=thetas["full_attention"],
        local_rope_theta=thetas["sliding_attention"],
        attn_out_dropout=content.get(DROPOUT_FIELD, ModelConfig.attn_out_dropout),
    )


def _global_attn_every_n_layers(content: dict[str, Any]) -> tuple[int, list[str]]:
    num_layers, layer_types = content["num_hidden_layers"], content.get("layer_types")
    every_n = content.get("global_attn_every_n_layers")
    if layer_types is None:
        return every_n or ModelConfig.global_attn_every_n_layers, []
    if every_n is None:
        is_global = [kind == "full_attention" for kind in layer_types]
        every_n = is_global.index(True, 1) if True in is_global[1:] else num_layers
    regular = ["sliding_attention" if layer % every_n else "full_attention" for layer in range(num_layers)]
    if layer_types != regular:
        return every_n, [
            f"layer_types is not 'full_attention in layers 0, {every_n}, {2 * every_n}, ...': {layer_types}"
        ]
    return every_n, []


def _rope_thetas(content: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Theta of either layer type, the newer spelling first, as Transformers reads it."""
    newer = content.get("rope_parameters") or {}
    thetas, problems = {}, []
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
        # Exports of other trainers wrote -1 or null for "as the global one"; guessing that has led to NaN
        # before.
        if not isinstance(theta, (int, float)) or theta <= 0:
            problems.append(
                f"{older_name} is {theta!r}, which is no RoPE theta; write the one it was trained with"
            )
        else:
            thetas[kind] = float(theta)
    return thetas, problems
