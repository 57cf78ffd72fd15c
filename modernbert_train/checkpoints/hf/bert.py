"""Convert between our encoder with BERT's switches and Transformers' `BertForMaskedLM`: `config.json` and weights.

BERT adds an embedding of the token type, 0 or 1, to every token. We train on single documents, which have type 0, so
our encoder has no such embedding: export writes zeros, and import adds the embedding of type 0 to that of every
position, which gives the same sum.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

from modernbert_train.checkpoints.hf.fields import (
    REQUIRED_FIELDS,
    as_json,
    pretraining_dropouts,
    read_dropouts,
    refuse,
    special_ids,
    uneven_heads,
    unsupported_values,
)
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import POSITION_EMBEDDING, TIED_WEIGHT
from modernbert_train.store.manifest import TokenizerInfo

# Fields with the same name and meaning in both.
SHARED_FIELDS = (*REQUIRED_FIELDS, "initializer_range")

# The only values that our encoder supports. Transformers 4 reads `position_embedding_type`.
FIXED_FIELDS: dict[str, Any] = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}

# Our settings that the class supports.
SWITCHES: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",),
    "norm_placement": ("post",),
    "mlp": ("gelu",),
    "positions": ("learned",),
    "bias": (True,),
    "parallel_block": (False,),
    "global_attn_every_n_layers": (1,),
}

TOKEN_TYPES = "bert.embeddings.token_type_embeddings.weight"

# Our module -> BERT's; fused modules are split along the first dimension. `cls.predictions` holds the bias.
_MODULES = {
    "model.embeddings.tok_embeddings": ["bert.embeddings.word_embeddings"],
    "model.embeddings.position_embeddings": ["bert.embeddings.position_embeddings"],
    "model.embeddings.norm": ["bert.embeddings.LayerNorm"],
    "head.dense": ["cls.predictions.transform.dense"],
    "head.norm": ["cls.predictions.transform.LayerNorm"],
    "decoder": ["cls.predictions"],
}
_LAYER_MODULES = {
    "attn.Wqkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "attn.Wo": ["attention.output.dense"],
    "attn_norm": ["attention.output.LayerNorm"],
    "mlp.Wi": ["intermediate.dense"],
    "mlp.Wo": ["output.dense"],
    "mlp_norm": ["output.LayerNorm"],
}


def to_bert_config(model: ModelConfig, tokenizer: TokenizerInfo) -> dict[str, Any]:
    """Return the `config.json` of a model with BERT's switches."""
    config = BertConfig(
        **{name: getattr(model, name) for name in SHARED_FIELDS},
        **FIXED_FIELDS,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=model.max_position_embeddings,
        layer_norm_eps=model.norm_eps,
        initializer_cutoff_factor=model.initializer_cutoff_factor,
        # Two rows, for tokenizers that give the second text of a pair type 1.
        type_vocab_size=2,
        hidden_dropout_prob=0.0,
        classifier_dropout=0.0,
        **special_ids(tokenizer),
        architectures=["BertForMaskedLM"],
        **pretraining_dropouts(model),
    )
    return dict(sorted(as_json(config).items()))


def from_bert_config(content: dict[str, Any], file: Path) -> ModelConfig:
    """Return our architecture for BERT's `config.json`; see `hf.config.from_hf_config`."""
    problems = [*unsupported_values(content, FIXED_FIELDS), *uneven_heads(content)]
    if inside := content.get("attention_probs_dropout_prob", 0.0):
        problems.append(
            f"attention_probs_dropout_prob is {inside}, supported is 0.0 (write that to continue without "
            "this dropout inside the attention; weights and logits do not depend on it)"
        )
    refuse(problems, file)
    cutoff = content.get("initializer_cutoff_factor", ModelConfig.initializer_cutoff_factor)
    return ModelConfig(
        **{name: content[name] for name in SHARED_FIELDS if name in content},
        **{switch: values[0] for switch, values in SWITCHES.items()},
        max_position_embeddings=content.get("max_position_embeddings", 512),
        norm_eps=content.get("layer_norm_eps", 1e-12),
        initializer_cutoff_factor=cutoff,
        # BERT has one rate for all three.
        **read_dropouts(content, content.get("hidden_dropout_prob", 0.1)),
    )


def to_bert_weights(state_dict: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Return our weights, without the tied one, under BERT's names."""
    modules = _modules(model)
    weights: dict[str, Tensor] = {}
    for name, weight in state_dict.items():
        module, _, kind = name.rpartition(".")
        parts = weight.chunk(len(modules[module]))
        weights |= {
            f"{bert_module}.{kind}": part for bert_module, part in zip(modules[module], parts, strict=True)
        }
    weights[TOKEN_TYPES] = torch.zeros(2, model.hidden_size)
    return weights


def from_bert_weights(loaded: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Return BERT's weights under our names, with token type 0 added to the positions; others keep their names."""
    left = dict(loaded)
    weights: dict[str, Tensor] = {}
    for module, bert_modules in _modules(model).items():
        for kind in ("weight", "bias"):
            names = [f"{bert_module}.{kind}" for bert_module in bert_modules]
            if all(name in left for name in names):
                weights[f"{module}.{kind}"] = torch.cat([left.pop(name) for name in names])
    # Transformers 4 saved tied weights under both names.
    if "cls.predictions.decoder.weight" in left:
        weights[TIED_WEIGHT] = left.pop("cls.predictions.decoder.weight")
    twin = left.get("cls.predictions.decoder.bias")
    if twin is not None and torch.equal(twin, weights.get("decoder.bias", twin)):
        left.pop("cls.predictions.decoder.bias")
    if TOKEN_TYPES in left and POSITION_EMBEDDING in weights:
        weights[POSITION_EMBEDDING] = weights[POSITION_EMBEDDING] + left.pop(TOKEN_TYPES)[0]
    return weights | left


def _modules(model: ModelConfig) -> dict[str, list[str]]:
    layers = {
        f"model.layers.{layer}.{module}": [f"bert.encoder.layer.{layer}.{name}" for name in bert_modules]
        for layer in range(model.num_hidden_layers)
        for module, bert_modules in _LAYER_MODULES.items()
    }
    return _MODULES | layers
