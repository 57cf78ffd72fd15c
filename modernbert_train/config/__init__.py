"""The recipe of a run: its fields (`schema`), how it is read (`overrides`, `loading`) and checked (`validation`).

Imports no torch.
"""

from modernbert_train.config.loading import dump_recipe, load_recipe
from modernbert_train.config.quantities import format_bytes, format_tokens, parse_bytes, parse_tokens
from modernbert_train.config.schema import (
    BatchRampConfig,
    CacheConfig,
    DataConfig,
    EvaluationConfig,
    InitConfig,
    MaskingConfig,
    MixtureConfig,
    ModelConfig,
    OptimizerConfig,
    PhaseConfig,
    Recipe,
    SkipConfig,
    SourceConfig,
    TrainingConfig,
    WandbConfig,
)
from modernbert_train.config.validation import check_model, validate

__all__ = [
    "BatchRampConfig",
    "CacheConfig",
    "DataConfig",
    "EvaluationConfig",
    "InitConfig",
    "MaskingConfig",
    "MixtureConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "Recipe",
    "SkipConfig",
    "SourceConfig",
    "TrainingConfig",
    "WandbConfig",
    "check_model",
    "dump_recipe",
    "format_bytes",
    "format_tokens",
    "load_recipe",
    "parse_bytes",
    "parse_tokens",
    "validate",
]
