"""Convert between our encoder with BERT's switches and Transformers' `BertForMaskedLM`: `config.json` and weights.

BERT adds an embedding of the token type, 0 or 1, to every token. We train on single documents, which have type 0, so
our encoder has no such embedding: export writes zeros, and import adds the embedding of type 0 to that of every
position, which gives the same sum.

RoBERTa, XLM-RoBERTa and CamemBERT are the same encoder. Their positions begin at `pad_token_id + 1`, so that many rows
of the position embedding are not read; and their masked-LM head has other names. They are exported as BERTs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert_train.checkpoints.hf.fields import (
    SIZE_FIELDS,
    as_json,
    pad_id_problem,
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
from modernbert_train.config.architecture import (
    DECODER_BIAS,
    EMBEDDING,
    TIED_WEIGHT,
    weight_shapes,
)
from modernbert_train.store.manifest import TokenizerInfo

# Fields with the same name and meaning in both.
SHARED_FIELDS = (*SIZE_FIELDS, "initializer_range")
# Fields that Transformers fills with a default of the architecture.
_DEFAULTED_FIELDS = (
    *SHARED_FIELDS,
    "max_position_embeddings",
    "layer_norm_eps",
    "type_vocab_size",
    "hidden_dropout_prob",
    "pad_token_id",
)

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


@dataclass(frozen=True)
class Family:
    """What differs between BERT and its relatives."""

    # In front of the names of the encoder, and of the head.
    prefix: str
    head_prefix: str
    # Our module of the head -> its name; the decoder's is that of its bias.
    head: dict[str, str]
    # Whether the first position is pad_token_id + 1.
    positions_after_pad: bool


BERT = Family(
    prefix="bert.",
    head_prefix="cls.predictions.",
    head={
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "decoder": "cls.predictions",
    },
    positions_after_pad=False,
)
ROBERTA = Family(
    prefix="roberta.",
    head_prefix="lm_head.",
    head={"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "decoder": "lm_head"},
    positions_after_pad=True,
)
# By `model_type`.
FAMILIES = {"bert": BERT, "roberta": ROBERTA, "xlm-roberta": ROBERTA, "camembert": ROBERTA}

POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"

# Our module -> BERT's; fused modules are split along the first dimension.
_MODULES = {
    "model.embeddings.tok_embeddings": ["embeddings.word_embeddings"],
    "model.embeddings.position_embeddings": ["embeddings.position_embeddings"],
    "model.embeddings.norm": ["embeddings.LayerNorm"],
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
    from transformers import BertConfig  # takes seconds to import, and training does not need it

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
    """Return our architecture for the `config.json` of BERT or a relative; see `hf.config.from_hf_config`."""
    content = with_defaults(content, _DEFAULTED_FIELDS)
    refuse([*wrong_types(content), *pad_id_problem(content)], file)
    positions = content["max_position_embeddings"] - first_position(content)
    problems = [*unsupported_values(content, FIXED_FIELDS), *uneven_heads(content)]
    if positions < 1:
        problems.append(
            f"max_position_embeddings is {content['max_position_embeddings']}, and positions begin at "
            f"pad_token_id + 1, {first_position(content)}"
        )
    refuse(problems, file)
    return ModelConfig(
        **{name: content[name] for name in SHARED_FIELDS},
        **{switch: values[0] for switch, values in SWITCHES.items()},
        max_position_embeddings=positions,
        norm_eps=content["layer_norm_eps"],
        initializer_cutoff_factor=content.get(
            "initializer_cutoff_factor", ModelConfig.initializer_cutoff_factor
        ),
        # BERT has one rate for all three.
        **read_dropouts(content, content["hidden_dropout_prob"]),
    )


def first_position(content: dict[str, Any]) -> int:
    """Return the row of the position embedding that belongs to the first token of a document."""
    content = with_defaults(content, ("pad_token_id",))
    return content["pad_token_id"] + 1 if FAMILIES[content["model_type"]].positions_after_pad else 0


def to_bert_weights(state_dict: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Return our weights, without the tied one, under BERT's names."""
    modules = _modules(model, BERT)
    weights: dict[str, Tensor] = {}
    for name, weight in state_dict.items():
        module, _, kind = name.rpartition(".")
        parts = weight.chunk(len(modules[module]))
        weights |= {
            f"{bert_module}.{kind}": part for bert_module, part in zip(modules[module], parts, strict=True)
        }
    weights[TOKEN_TYPES] = torch.zeros(2, model.hidden_size)
    return {
        name if name.startswith(BERT.head_prefix) else f"{BERT.prefix}{name}": weight
        for name, weight in weights.items()
    }


def bert_layout(content: dict[str, Any], model: ModelConfig) -> Layout:
    """Return the names and shapes of the weights that belong to a `config.json`."""
    family = FAMILIES[content["model_type"]]
    modules = _modules(model, family)
    parts: dict[str, tuple[str, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weight_shapes(model).items():
        if name == TIED_WEIGHT:
            continue
        module, _, kind = name.rpartition(".")
        parts[name] = tuple(f"{bert_module}.{kind}" for bert_module in modules[module])
        shapes |= dict.fromkeys(parts[name], (shape[0] // len(parts[name]), *shape[1:]))
    num_positions = model.max_position_embeddings + first_position(content)
    shapes[POSITIONS] = (num_positions, model.hidden_size)
    num_types = with_defaults(content, ("type_vocab_size",))["type_vocab_size"]
    shapes[TOKEN_TYPES] = (num_types, model.hidden_size)
    decoder = f"{family.head_prefix}decoder"
    twins = {f"{decoder}.weight": parts[EMBEDDING][0], f"{decoder}.bias": parts[DECODER_BIAS][0]}
    return Layout(family.prefix, ("embeddings.", "encoder."), (family.head_prefix,), parts, shapes, twins)


def fold_positions(weights: dict[str, Tensor], content: dict[str, Any]) -> dict[str, Tensor]:
    """Return published weights with token type 0 added to the positions, which begin at row 0."""
    positions = weights[POSITIONS][first_position(content) :] + weights[TOKEN_TYPES][0]
    return {**weights, POSITIONS: positions}


def _modules(model: ModelConfig, family: Family) -> dict[str, list[str]]:
    layers = {
        f"model.layers.{layer}.{module}": [f"encoder.layer.{layer}.{name}" for name in bert_modules]
        for layer in range(model.num_hidden_layers)
        for module, bert_modules in _LAYER_MODULES.items()
    }
    return _MODULES | layers | {module: [name] for module, name in family.head.items()}
