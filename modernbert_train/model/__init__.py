"""ModernBERT in plain PyTorch, over packed documents."""

from modernbert_train.model.backends import resolve_backend
from modernbert_train.model.encoder import ModernBertForMaskedLM
from modernbert_train.model.initialization import initialize_weight, initialize_weights

__all__ = [
    "ModernBertForMaskedLM",
    "initialize_weight",
    "initialize_weights",
    "resolve_backend",
]
