"""The cache of this machine, as a recipe describes it."""

from pathlib import Path

from modernbert_train.config.schema import DataConfig
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import RetryPolicy, is_url


def open_cache(data: DataConfig) -> Cache | None:
    """Open the cache of this machine; None if the recipe names no URL."""
    names = (data.tokenizer, *(source.store for source in data.sources.values()))
    return new_cache(data) if any(map(is_url, names)) else None


def new_cache(data: DataConfig) -> Cache:
    """Open the cache of this machine."""
    policy = RetryPolicy(data.cache.download_attempts, data.cache.download_timeout_seconds)
    return Cache(Path(data.cache.folder), data.cache.limit_bytes, policy)
