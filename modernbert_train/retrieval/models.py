"""Models of sentence-transformers around an encoder: one vector per text, or one per token (ColBERT).

What a folder of sentence-transformers has behind its encoder is kept: pooling, or the projection of a multi-vector
model. Around a plain encoder it is new: the mean of the tokens (or [CLS]); or a projection of each token to
`retrieval.dimension` numbers, drawn with the seed of the job, and scores by MaxSim (Khattab and Zaharia, 2020).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from modernbert_train.checkpoints.hf.folder import MODULES_FILE, transformer_folder
from modernbert_train.checkpoints.hf.transformers_model import quiet
from modernbert_train.checkpoints.hf_folders import as_hf_folder
from modernbert_train.common.errors import is_ours
from modernbert_train.common.text import one_line
from modernbert_train.tasks.schema import RetrievalConfig, Task

log = logging.getLogger(__name__)

_SAVED_CONFIG = "config_sentence_transformers.json"
_MULTI_VECTOR = "MultiVectorEncoder"


def load_model(model: str | Path, task: Task, retrieval: RetrievalConfig, seed: int, device: str) -> Any:
    """Load a model that encodes queries and documents.

    Args:
        model: A run folder, a checkpoint, a Hugging Face folder or a name of the hub.
        task: Its pooling and the longest document.
        retrieval: The kind of model, the longest query and the size of its vectors.
        seed: Of whatever is new.
        device: "cpu" or "cuda".

    Returns:
        A SentenceTransformer or MultiVectorEncoder, in float32.

    Raises:
        ValueError: There is no such model, or it cannot be opened.
    """
    import sentence_transformers

    with (
        as_hf_folder(model, seed if task.random_twin else None) as folder,
        torch.random.fork_rng(devices=[]),
        quiet(),
    ):
        torch.manual_seed(seed)
        load = _multi_vector if retrieval.multi_vector else _single_vector
        try:
            loaded = load(folder, task, retrieval, device)
        except Exception as error:  # whatever may be wrong with files that others wrote
            if is_ours(error):
                raise
            raise ValueError(
                f"{model}: sentence-transformers {sentence_transformers.__version__} cannot open it: "
                f"{one_line(error):.300}"
            ) from error
    longest = loaded.max_seq_length or task.max_tokens
    if longest < task.max_tokens:
        log.warning("%s reads at most %d tokens, so documents are cut there", model, longest)
    loaded[0].document_length = min(task.max_tokens, longest)
    loaded[0].query_length = min(retrieval.query_tokens or task.max_tokens, longest)
    return loaded


def _single_vector(folder: Path, task: Task, retrieval: RetrievalConfig, device: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    if _saved_type(folder) is not None:
        if _saved_type(folder) == _MULTI_VECTOR:
            raise ValueError(
                f"{folder} is a multi-vector model; add --multi-vector (retrieval.multi_vector=true)"
            )
        return SentenceTransformer(str(folder), device=device)
    encoder = Transformer(str(folder))
    pooling = Pooling(encoder.get_embedding_dimension(), pooling_mode=task.pooling)
    return SentenceTransformer(modules=[encoder, pooling], device=device)


def _multi_vector(folder: Path, task: Task, retrieval: RetrievalConfig, device: str) -> Any:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    if _saved_type(folder) == _MULTI_VECTOR:
        return MultiVectorEncoder(str(folder), device=device)
    encoder = Transformer(str(transformer_folder(folder)))
    projection = Dense(
        encoder.get_embedding_dimension(),
        retrieval.dimension,
        bias=False,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
    )
    modules = [encoder, projection, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    return MultiVectorEncoder(modules=modules, device=device)


def _saved_type(folder: Path) -> str | None:
    """Return the class of a folder of sentence-transformers; None for a plain encoder."""
    if not (folder / MODULES_FILE).is_file():
        return None
    file = folder / _SAVED_CONFIG
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return str(content.get("model_type", "SentenceTransformer"))


def save_model(model: Any, folder: Path) -> None:
    """Write a model as a folder that its class opens."""
    with quiet():
        model.save_pretrained(str(folder), create_model_card=False)


def cut_share(model: Any, texts: list[str], max_tokens: int) -> float:
    """Return the share of texts that are longer than `max_tokens`, of the first 2,000."""
    texts = texts[:2_000]
    ids = model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    return sum(len(text) > max_tokens for text in ids) / max(1, len(texts))
