"""A small valid recipe, as YAML and as an object, for tests of the configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from modernbert_train.config import DataConfig, MixtureConfig, ModelConfig, PhaseConfig, Recipe, SourceConfig

YAML = """
name: little
model: {vocab_size: 128, hidden_size: 8, num_attention_heads: 2, max_position_embeddings: 64}
data:
  tokenizer: store
  sources: {web: {store: store}, code: {store: store, source: python}}
  num_streams: 2
  num_workers: 1
phases:
  pretrain:
    tokens: 4K
    context_tokens: 16
    row_tokens: 32
    batch_tokens: 128
    learning_rate: 1e-3
    mixture: {web: 3, code: 1}
  extension:
    tokens: 1_280
    context_tokens: 32
    global_rope_theta: 160_000
"""


def write(folder: Path, text: str = YAML, name: str = "little.yaml") -> Path:
    """Write a YAML file and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def a_phase(**fields: Any) -> PhaseConfig:
    """Return a valid phase of `a_recipe`, with some fields changed."""
    phase = PhaseConfig(
        tokens=4_096,
        batch_tokens=128,
        learning_rate=1e-3,
        mixture=MixtureConfig({"web": 0.75, "code": 0.25}),
        context_tokens=16,
        row_tokens=32,
        micro_batch_tokens=64,
    )
    return replace(phase, **fields)


def a_recipe(*phases: PhaseConfig, **fields: Any) -> Recipe:
    """Return a valid recipe, with other phases or some fields changed."""
    recipe = Recipe(
        name="little",
        model=ModelConfig(vocab_size=128, hidden_size=8, num_attention_heads=2, max_position_embeddings=64),
        data=DataConfig("store", {"web": SourceConfig("store"), "code": SourceConfig("store")}, 2, 8, 1),
        phases={f"phase{number}": phase for number, phase in enumerate(phases or (a_phase(),))},
    )
    return replace(recipe, **fields)
