"""What a recipe is chosen from: the text in the stores, and the weights to start from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modernbert_train.common.types import Int64
from modernbert_train.config import DataConfig, ModelConfig
from modernbert_train.config.cache import open_cache
from modernbert_train.config.mixture import RESERVED
from modernbert_train.config.validation import NAME
from modernbert_train.store.download import is_url
from modernbert_train.store.manifest import Manifest
from modernbert_train.store.opening import open_store
from modernbert_train.store.split import Split

# Documents of a source whose lengths are looked at, evenly spaced.
_SAMPLED = 1_000_000


@dataclass(frozen=True)
class Source:
    """A source of text for training."""

    # Its name in the recipe, which differs from that in the store if two stores have a source of this name.
    name: str
    store: str
    name_in_store: str
    num_documents: int
    num_tokens: int
    num_held_out_tokens: int

    @property
    def has_held_out(self) -> bool:
        """Whether there is text to evaluate on."""
        return self.num_held_out_tokens > 0


@dataclass(frozen=True)
class Text:
    """All text of some stores."""

    sources: tuple[Source, ...]
    tokenizer_fingerprint: str
    # Rows of the embedding.
    vocab_size: int
    # 95% of the documents are no longer.
    p95_tokens: int
    # Share of the tokens that are in documents longer than 1,024.
    long_share: float

    @property
    def num_tokens(self) -> int:
        """Tokens of all sources."""
        return sum(source.num_tokens for source in self.sources)

    @property
    def is_remote(self) -> bool:
        """Whether a store is read from a URL."""
        return any(is_url(source.store) for source in self.sources)


@dataclass(frozen=True)
class Weights:
    """Weights to start from."""

    path: str
    model: ModelConfig
    tokenizer_fingerprint: str
    global_rope_theta: float
    local_rope_theta: float


def read_stores(stores: Sequence[str]) -> Text:
    """Read what stores hold, without their shards.

    Args:
        stores: Folders or URLs.

    Returns:
        Their text.

    Raises:
        ValueError: A store cannot be opened, has no tokens to train on, or has another tokenizer than the first.
    """
    data = DataConfig(tokenizer=stores[0], sources={})
    manifests = {store: _open(store, data) for store in stores}
    first = next(iter(manifests.values()))
    sources: dict[str, Source] = {}
    lengths, weights = [], []
    for store, manifest in manifests.items():
        if manifest.tokenizer_fingerprint != first.tokenizer_fingerprint:
            raise ValueError(
                f"{store} was made with another tokenizer than {stores[0]}, and a model has one; tokenize both with "
                "the same"
            )
        for name_in_store, splits in manifest.sources.items():
            split = splits.get("train")
            if split is None or split.num_tokens == 0:
                continue
            name = _unused_name(name_in_store, sources)
            held_out = splits["valid"].num_tokens if "valid" in splits else 0
            sources[name] = Source(
                name, store, name_in_store, split.num_documents, split.num_tokens, held_out
            )
            every = -(-split.num_documents // _SAMPLED)
            lengths.append(_every(split, every))
            weights.append(np.full(len(lengths[-1]), every, dtype=np.int64))
    if not sources:
        raise ValueError(
            f"{', '.join(stores)}: there are no tokens to train on; tokenize some text into a store first"
        )
    return Text(
        tuple(sources.values()),
        first.tokenizer_fingerprint,
        first.vocab_size,
        *_lengths(np.concatenate(lengths), np.concatenate(weights)),
    )


def _every(split: Split, step: int) -> Int64:
    """Return the lengths of documents 0, step, 2 * step, ..."""
    parts, first = [], 0
    for part in split.lengths_in_parts():
        parts.append(part[-first % step :: step].astype(np.int64))
        first += len(part)
    return np.concatenate(parts)


def _open(store: str, data: DataConfig) -> Manifest:
    cache = open_cache(DataConfig(tokenizer=store, sources={}, cache=data.cache))
    names = open_store(store, (), cache).sources
    return open_store(store, list(names), cache)


def _unused_name(name: str, taken: dict[str, Source]) -> str:
    """Return the name of a source as a recipe allows it, with a number if it is taken."""
    allowed = name if NAME.fullmatch(name) else re.sub("[^A-Za-z0-9_-]+", "-", name).strip("-_") or "source"
    numbered = (f"{allowed}-{number}" for number in range(2, len(taken) + 4))
    return next(free for free in (allowed, *numbered) if free not in taken and free not in RESERVED)


def _lengths(lengths: np.ndarray, weights: np.ndarray) -> tuple[int, float]:
    """Return the 95th percentile of the lengths, and the share of the tokens in documents longer than 1,024."""
    order = np.argsort(lengths)
    ordered, counts = lengths[order], np.cumsum(weights[order])
    p95 = int(ordered[np.searchsorted(counts, 0.95 * counts[-1])])
    tokens = lengths * weights
    return p95, float(tokens[lengths > 1_024].sum() / tokens.sum())


def read_weights(path: str) -> Weights:
    """Read the facts about the weights in a run folder, checkpoint or Hugging Face folder.

    Returns:
        The facts; the weights themselves are not read.

    Raises:
        ValueError: There are none, or the encoder cannot compute their model.
    """
    from modernbert_train.checkpoints.source import open_weights  # imports torch

    try:
        info = open_weights(path).info
    except ValueError as error:
        raise ValueError(f"--init: {error}") from None
    return Weights(
        path, info.model, info.tokenizer_fingerprint, info.global_rope_theta, info.local_rope_theta
    )
