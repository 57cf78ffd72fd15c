"""Small models in the layouts in which others publish them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedModel,
)

from tests.helpers.exported import write_tokenizer

State = dict[str, Tensor]

# No multiple of 64, as BERT's 30,522. The tokenizer of `write_tokenizer` has 261 ids.
VOCAB_SIZE = 283
PAD_ID = 259
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "pad_token_id": PAD_ID,
}
EXTRAS: dict[str, dict[str, Any]] = {
    "modernbert": {"local_attention": 16},
    # The rows up to that of [PAD] are not used.
    "roberta": {"max_position_embeddings": PAD_ID + 1 + 80, "type_vocab_size": 1},
}
ARCHITECTURES = ("modernbert", "bert", "roberta", "xlm-roberta", "camembert")


def published_model(model_type: str, **fields: Any) -> PreTrainedModel:
    """A masked-LM model of Transformers, all of whose weights make a difference to the logits."""
    kind = model_type if model_type in ("modernbert", "bert") else "roberta"
    config = CONFIG_MAPPING[model_type](**(SIZES | EXTRAS.get(kind, {}) | fields))
    torch.manual_seed(0)
    model = MODEL_FOR_MASKED_LM_MAPPING[type(config)](config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return model.eval()


def state_of(model: PreTrainedModel) -> State:
    """Its weights, each once, under the names that `save_pretrained` gives them."""
    tied = getattr(model, "_tied_weights_keys", None) or {}
    return {name: weight.clone() for name, weight in model.state_dict().items() if name not in tied}


def write_config(folder: Path, model: PreTrainedModel, **changes: Any) -> None:
    """Its config.json; a change to None takes the field out."""
    content = model.config.to_dict() | {"architectures": [type(model).__name__]} | changes
    removed = [name for name, value in changes.items() if value is None]
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if k not in removed}))


def write_published(
    folder: Path,
    model: PreTrainedModel,
    state: State | None = None,
    save: Callable[[Path, State], None] | None = None,
) -> Path:
    """A folder with config, weights (in one safetensors file by default) and tokenizer."""
    folder.mkdir(parents=True)
    write_config(folder, model)
    (save or save_safetensors)(folder, state_of(model) if state is None else state)
    write_tokenizer(folder)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("[PAD]") == PAD_ID
    return folder


def save_safetensors(folder: Path, state: State) -> None:
    save_file(
        {name: weight.contiguous() for name, weight in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def save_bin(folder: Path, state: State) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def save_old_bin(folder: Path, state: State) -> None:
    """The format of torch before 1.6, which is no zip file."""
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def save_shards(folder: Path, state: State) -> None:
    _save_sharded(folder, state, "model-{}-of-00002.safetensors", "model.safetensors.index.json", save_file)


def save_bin_shards(folder: Path, state: State) -> None:
    _save_sharded(folder, state, "pytorch_model-{}-of-00002.bin", "pytorch_model.bin.index.json", torch.save)


def _save_sharded(folder: Path, state: State, pattern: str, index: str, save: Any) -> None:
    names = list(state)
    halves = {pattern.format("00001"): names[::2], pattern.format("00002"): names[1::2]}
    for file, half in halves.items():
        shard = {name: state[name].contiguous() for name in half}
        save(shard, folder / file, **({"metadata": {"format": "pt"}} if save is save_file else {}))
    weight_map = {name: file for file, half in halves.items() for name in half}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def save_beside_others(folder: Path, state: State) -> None:
    """The weights of other frameworks stand beside those that are read."""
    for name in (
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "onnx/model.onnx",
        "openvino/openvino_model.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"something else")
    save_safetensors(folder, state)


def with_old_names(state: State) -> State:
    """TensorFlow's names for norms."""
    endings = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {
        next(
            (name.removesuffix(old) + new for old, new in endings.items() if name.endswith(old)), name
        ): weight
        for name, weight in state.items()
    }


def with_other_heads(state: State) -> State:
    """A pooler and the next-sentence head of BERT's pretraining, and the buffers that Transformers 4 stored."""
    (words,) = (name for name in state if name.endswith("word_embeddings.weight"))
    prefix = words.partition(".")[0]
    return {
        **state,
        f"{prefix}.embeddings.position_ids": torch.arange(80)[None],
        f"{prefix}.pooler.dense.weight": torch.ones(32, 32),
        f"{prefix}.pooler.dense.bias": torch.ones(32),
        "cls.seq_relationship.weight": torch.ones(2, 32),
        "cls.seq_relationship.bias": torch.ones(2),
    }


def with_tied_twins(state: State) -> State:
    """The decoder under its own names too, as Transformers 4 stored it."""
    (words,) = (name for name in state if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    if words.startswith("model."):
        return {**state, "decoder.weight": state[words].clone()}
    head = "cls.predictions" if "cls.predictions.bias" in state else "lm_head"
    twins = {
        f"{head}.decoder.weight": state[words].clone(),
        f"{head}.decoder.bias": state[f"{head}.bias"].clone(),
    }
    return {**state, **twins}


def without_prefix(state: State) -> State:
    """The names of a bare model beside those of the head."""
    return {
        name.removeprefix("bert.").removeprefix("roberta.").removeprefix("model."): weight
        for name, weight in state.items()
    }


def without_head(state: State) -> State:
    """A bare model, as `AutoModel` saves it."""
    return without_prefix({n: w for n, w in state.items() if n.startswith(("bert.", "roberta.", "model."))})


def of_classifier(state: State) -> State:
    """`ModernBertForSequenceClassification`: the head without a decoder, and a classifier."""
    kept = {name: weight for name, weight in state.items() if not name.startswith("decoder.")}
    return {**kept, "classifier.weight": torch.ones(2, 32), "classifier.bias": torch.ones(2)}


def in_half(state: State) -> State:
    return {name: weight.half() for name, weight in state.items()}


def in_bfloat16(state: State) -> State:
    return {name: weight.bfloat16() for name, weight in state.items()}
