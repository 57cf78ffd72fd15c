"""A Hugging Face ModernBERT or BERT as a checkpoint to start from: the inverse of export.

    OUT/checkpoints/step-00000000.pt, .json   OUT/tokenizer.json   OUT/tokenizer_config.json

It holds weights only, so a recipe whose `init.from` names OUT starts with a fresh clock and optimizer. Before
OUT gets its name, our encoder's logits are compared with Transformers' on the folder that was imported.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from modernbert_train.config import ModelConfig
from modernbert_train.data.manifest import TokenizerInfo, load_tokenizer_info
from modernbert_train.hub.folders import (
    TIED_WEIGHT,
    build_our_model,
    load_their_model,
    new_folder,
)
from modernbert_train.hub.hf_config import from_hf_config, from_hf_weights, hf_class, read_hf_config
from modernbert_train.hub.parity import check_finite, compare_logits, probe_batches
from modernbert_train.hub.tokenizer_files import copy_tokenizer
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.training.checkpoint import save_weights

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
EMBEDDING = "model.embeddings.tok_embeddings.weight"


def import_folder(hf_folder: str | Path, out: str | Path) -> Path:
    """Write the model in `hf_folder` as a checkpoint in the new folder `out`, and return `out`.

    Reads the layout of answerdotai/ModernBERT-base, in the older and the newer spelling of its config, and that
    of `BertForMaskedLM`.
    FailedCheck: weights that hold NaN, logits that differ. ValueError: files missing, another model type,
    settings our encoder does not have, weights that are missing, left over or of another shape, `out` not
    empty.
    """
    source, out = Path(hf_folder), Path(out)
    with new_folder(out) as folder:
        content = read_hf_config(source)
        model = from_hf_config(content, source / "config.json")
        tokenizer = _tokenizer_of(source, model)
        state_dict = read_weights(source, model)
        _check_logits(source, model, state_dict, tokenizer)
        save_weights(folder, state_dict, _marker(model, tokenizer, _context_tokens(source, model)))
        copy_tokenizer(source, folder)
    return out


def read_weights(source: Path, model: ModelConfig) -> dict[str, Tensor]:
    """The weights of a Hugging Face folder under the names and shapes of our model, in float32.

    Takes names with and without the leading `model.`; ties the decoder to the embedding. Errors: see
    `import_folder`.
    """
    file = _weight_file(source)
    loaded = (
        load_file(file)
        if file.suffix == ".safetensors"
        else torch.load(file, map_location="cpu", weights_only=True)
    )
    with torch.device("meta"):
        expected = ModernBertForMaskedLM(model, attention_backend="cpu").state_dict()
    loaded = from_hf_weights(loaded, model)
    if EMBEDDING not in loaded:
        loaded = {name if name in expected else f"model.{name}": weight for name, weight in loaded.items()}
    if EMBEDDING in loaded:
        decoder = loaded.setdefault(TIED_WEIGHT, loaded[EMBEDDING])
        if not torch.equal(decoder, loaded[EMBEDDING]):
            raise ValueError(
                f"{file}: decoder.weight is not the embedding; only models that tie them can be imported"
            )
    _check_fit(loaded, expected, file, hf_class(model))
    weights = {name: weight.to(torch.float32) for name, weight in loaded.items()}
    weights[TIED_WEIGHT] = weights[EMBEDDING]
    check_finite(weights, file)
    return {name: weights[name] for name in expected}


def _weight_file(source: Path) -> Path:
    for name in WEIGHT_FILES:
        if (source / name).is_file():
            return source / name
    raise ValueError(f"{source}: has neither {' nor '.join(WEIGHT_FILES)}; download the weights into it")


def _check_fit(loaded: dict[str, Tensor], expected: dict[str, Tensor], file: Path, class_name: str) -> None:
    problems = [f"{name} is missing" for name in expected if name not in loaded]
    problems += [f"{name} is unknown" for name in loaded if name not in expected]
    problems += [
        f"{name} is {list(loaded[name].shape)}, config.json asks for {list(weight.shape)}"
        for name, weight in expected.items()
        if name in loaded and loaded[name].shape != weight.shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{file}: not the weights of a {class_name}: {'; '.join(problems[:5])}{more}")


def _tokenizer_of(source: Path, model: ModelConfig) -> TokenizerInfo:
    tokenizer = load_tokenizer_info(source)
    if tokenizer.num_ids > model.vocab_size:
        raise ValueError(
            f"{source}: tokenizer.json has ids up to {tokenizer.num_ids - 1:,}, the model has vocab_size "
            f"{model.vocab_size:,}; take the tokenizer that was published with the weights"
        )
    return tokenizer


def _context_tokens(source: Path, model: ModelConfig) -> int:
    """The tokenizer's `model_max_length`, in an export the trained context; else what the config allows."""
    file = source / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return min(model.max_position_embeddings, config.get("model_max_length") or model.max_position_embeddings)


def _check_logits(
    source: Path, model: ModelConfig, state_dict: dict[str, Tensor], tokenizer: TokenizerInfo
) -> None:
    ours = build_our_model(model, state_dict, model.global_rope_theta, model.local_rope_theta)
    batches = probe_batches(tokenizer, model.max_position_embeddings, model.local_attention)
    print(f"{source}: logits of Transformers {transformers.__version__} and ours, float32 on the CPU")
    for result in compare_logits(ours, load_their_model(source), batches):
        print(result)


def _marker(model: ModelConfig, tokenizer: TokenizerInfo, context_tokens: int) -> dict[str, Any]:
    return {
        "step": 0,
        "tokens": 0,
        "phase": "import",
        "phase_step": 0,
        "context_tokens": context_tokens,
        "global_rope_theta": model.global_rope_theta,
        "local_rope_theta": model.local_rope_theta,
        "model": dataclasses.asdict(model),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "complete": True,
    }
