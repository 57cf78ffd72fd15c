"""Read a Hugging Face folder of a ModernBERT, a BERT or a RoBERTa: its facts, and its weights as ours."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert_train.checkpoints.hf.config import (
    CONFIG_FILE,
    config_notes,
    first_position,
    from_hf_config,
    from_hf_weights,
    hf_layout,
    read_hf_config,
)
from modernbert_train.checkpoints.hf.fields import is_number
from modernbert_train.checkpoints.hf.layout import Arrangement, Layout, arrange, misfit, modules
from modernbert_train.checkpoints.hf.vocabulary import resize_vocabulary
from modernbert_train.checkpoints.hf.weight_files import (
    find_weights,
    read_json,
    read_names,
    read_tensors,
    weight_files,
)
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import DECODER_BIAS, weight_shapes
from modernbert_train.model import initialize_weight
from modernbert_train.store.tokenizer import TokenizerInfo, load_tokenizer_info
from modernbert_train.store.vocabulary import padded_vocab_size

MODULES_FILE = "modules.json"
# Of a folder of Sentence Transformers, such as 1_Pooling.
_MODULE_FOLDER = re.compile(r"\d+_\w+")
_TEXT_FILES = (".json", ".txt", ".md", ".model")
# Of a masked-LM head that a published folder lacks.
NEW_HEAD_SEED = 0


def is_hf_folder(folder: Path) -> bool:
    """Check whether a path is a Hugging Face folder, not a run folder or a checkpoint."""
    return (folder / CONFIG_FILE).is_file() or (folder / MODULES_FILE).is_file()


def transformer_folder(folder: Path) -> Path:
    """Return the folder with the model's config.json: the folder itself, or one inside it for sentence-transformers.

    Raises:
        ValueError: modules.json names no transformer inside the folder.
    """
    file = folder / MODULES_FILE
    if (folder / CONFIG_FILE).is_file() or not file.is_file():
        return folder
    content = read_json(file)
    for module in content if isinstance(content, list) else []:
        path = module.get("path") if isinstance(module, dict) else None
        # A path with more than one part could lead out of the folder.
        if isinstance(path, str) and path == Path(path).name and (folder / path / CONFIG_FILE).is_file():
            return folder / path
    raise ValueError(
        f"{file}: names no folder with a config.json; name the folder of the transformer itself, such as 0_Transformer"
    )


def copy_model(source: Path, target: Path) -> None:
    """Copy config, weights, tokenizer and modules of Sentence Transformers, as they are, into an existing folder.

    References to code (`auto_map`) are not copied, and neither is the code.

    Raises:
        ValueError: There are no weights.
    """
    if transformer_folder(source) != source:
        raise ValueError(f"{source}: its transformer is in a folder inside it; name that folder")
    weights = find_weights(source)
    is_index = weights.name.endswith(".json")
    names = set(weight_files(weights)) if is_index else {weights.name}
    for path in sorted(source.iterdir()):
        # Not what lies beside a model: weights in other formats, states of optimizers, earlier checkpoints.
        if path.is_file() and (path.name in names or path.suffix in _TEXT_FILES):
            shutil.copy(path, target)
        elif path.is_dir() and _MODULE_FOLDER.fullmatch(path.name):
            shutil.copytree(path, target / path.name)
    for name in (CONFIG_FILE, "tokenizer_config.json"):
        if (target / name).is_file() and "auto_map" in (content := _object(target / name)):
            del content["auto_map"]
            (target / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Published:
    """A published model, known by its config.json and the names of its weights."""

    folder: Path
    content: dict[str, Any]
    # With the published vocabulary.
    model: ModelConfig
    weight_file: Path
    layout: Layout
    arrangement: Arrangement


def _open(folder: Path) -> _Published:
    content = read_hf_config(folder)
    model = from_hf_config(content, folder / CONFIG_FILE)
    file, layout = find_weights(folder), hf_layout(content, model)
    return _Published(folder, content, model, file, layout, arrange(read_names(file), layout, file))


def read_hf_info(folder: Path) -> tuple[CheckpointInfo, list[str]]:
    """Return what is known about a folder before its weights are read.

    Returns:
        The facts of the checkpoint that an import makes, at step 0; and a line about everything in the folder that is
        not taken over as it is, and about what is made new.

    Raises:
        ValueError: See `convert.import_folder`.
    """
    published = _open(folder)
    model = published.model
    info = CheckpointInfo(
        step=0,
        tokens=0,
        phase="import",
        phase_step=0,
        context_tokens=context_tokens(folder, model.max_position_embeddings),
        global_rope_theta=model.global_rope_theta,
        local_rope_theta=model.local_rope_theta,
        model=dataclasses.replace(model, vocab_size=padded_vocab_size(model.vocab_size)),
        tokenizer_fingerprint=_load_tokenizer(folder, model).fingerprint,
    )
    return info, [*config_notes(published.content), *_weight_notes(published)]


def _weight_notes(published: _Published) -> Iterator[str]:
    arrangement, rows = published.arrangement, published.model.vocab_size
    if arrangement.left_out:
        yield f"left out, because a masked language model does not use them: {modules(arrangement.left_out)}"
    if arrangement.new:
        parts = [part for name in arrangement.new for part in published.layout.parts[name]]
        yield (
            f"no {', '.join(parts)} in it: this part of the masked-LM head starts as in a new model "
            f"(seed {NEW_HEAD_SEED})"
        )
    if (padded := padded_vocab_size(rows)) != rows:
        yield (
            f"the vocabulary of {rows:,} is padded to {padded:,} rows, a multiple of 64; the added rows have "
            "probability 0, and export removes them"
        )


def lacks_head(folder: Path) -> bool:
    """Check whether the masked-LM head is made new. A decoder bias alone is 0 then, in Transformers too."""
    return any(name != DECODER_BIAS for name in _open(folder).arrangement.new)


def context_tokens(folder: Path, max_position_embeddings: int | None = None) -> int:
    """Return the longest input: the tokenizer's `model_max_length`, at most the model's `max_position_embeddings`.

    In a folder that we exported, `model_max_length` is the context that the weights were trained with.

    Args:
        folder: A Hugging Face folder of any model.
        max_position_embeddings: The model's number of positions. None: that of config.json.

    Raises:
        ValueError: Neither file has a limit, or one that is not a number.
    """
    if max_position_embeddings is None:
        max_position_embeddings = most_positions(folder)
    file = folder / "tokenizer_config.json"
    limits: list[float | None] = [max_position_embeddings]
    limits += [_limit(_object(file), "model_max_length", file)] if file.is_file() else []
    known = [limit for limit in limits if limit]
    if not known:
        raise ValueError(
            f"{folder}: config.json has no max_position_embeddings; add the longest input of the model"
        )
    return int(min(known))


def most_positions(folder: Path) -> int | None:
    """Return the number of positions that config.json gives a model; None if it gives none."""
    content = _object(folder / CONFIG_FILE)
    stored = _limit(content, "max_position_embeddings", folder / CONFIG_FILE)
    return None if stored is None else int(stored) - first_position(content)


def _object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds no JSON object; download it again")
    return content


def _limit(content: dict[str, Any], name: str, file: Path) -> float | None:
    value = content.get(name)
    if value is not None and not (is_number(value) and value >= 1):
        raise ValueError(f"{file}: {name} is {value!r:.100}, expected a whole number from 1")
    return value


def read_hf_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights under the names and shapes of our model, in float32, with the decoder tied to the embedding.

    A missing masked-LM head is new, and the vocabulary is padded, as the lines of `read_hf_info` say.

    Returns:
        Our name of a weight -> its value, in the order of our state dict.

    Raises:
        ValueError: See `convert.import_folder`.
    """
    published = _open(folder)
    layout, model, names = published.layout, published.model, published.arrangement.names
    tensors = read_tensors(published.weight_file, names.values())
    loaded = {bare: tensors[name] for bare, name in names.items()}
    _check_fit(loaded, published)
    loaded = {name: loaded[name].to(torch.float32) for name in layout.shapes if name in loaded}
    weights = from_hf_weights(loaded, published.content, layout) | _new_head(published)
    weights = resize_vocabulary(weights, padded_vocab_size(model.vocab_size))
    return {name: weights[name] for name in weight_shapes(model)}


def _check_fit(loaded: dict[str, Tensor], published: _Published) -> None:
    names, layout = published.arrangement.names, published.layout
    problems = [
        f"{names[bare]} is {list(loaded[bare].shape)}, config.json implies {list(shape)}"
        for bare, shape in layout.shapes.items()
        if bare in loaded and loaded[bare].shape != shape
    ]
    problems += [
        f"{names[bare]} has numbers of type {str(weight.dtype).removeprefix('torch.')}, expected floating point"
        for bare, weight in loaded.items()
        if not weight.is_floating_point()
    ]
    if problems:
        raise ValueError(f"{published.weight_file}: {misfit(problems)}")
    for twin, first in layout.twins.items():
        if twin in loaded and not torch.equal(loaded[twin], loaded[first]):
            raise ValueError(
                f"{published.weight_file}: {names[twin]} differs from {names[first]}; only models in which they are "
                "one weight can be read"
            )


def _new_head(published: _Published) -> dict[str, Tensor]:
    shapes, generator = weight_shapes(published.model), torch.Generator().manual_seed(NEW_HEAD_SEED)
    new = {name: torch.empty(shapes[name]) for name in published.arrangement.new}
    for name, weight in new.items():
        initialize_weight(name, weight, published.model, generator)
    return new


def _load_tokenizer(folder: Path, model: ModelConfig) -> TokenizerInfo:
    tokenizer = load_tokenizer_info(folder)
    if tokenizer.num_ids > model.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has ids up to {tokenizer.num_ids - 1:,}, the model has vocab_size "
            f"{model.vocab_size:,}; use the tokenizer that was published with the weights"
        )
    return tokenizer
