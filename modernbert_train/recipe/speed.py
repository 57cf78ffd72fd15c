"""Tokens/s of a model: measured on this machine, or what has been published for an H100."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from modernbert_train.config import DataConfig, MixtureConfig, ModelConfig, PhaseConfig, Recipe
from modernbert_train.config.overrides import read_mapping
from modernbert_train.config.shipped import find_yaml
from modernbert_train.objectives import MaskedLM
from modernbert_train.planning.cost import training_flops_per_token

_PACKAGE = Path(__file__).parents[1]
CONTEXT_TOKENS = 1_024  # of the documents in all figures here
_MASK_RATE = 0.3


@dataclass(frozen=True)
class Size:
    """A size of model, with published figures."""

    # In yamls/models.
    file: str
    # Peak learning rate from random weights, and when training goes on from weights.
    learning_rate: float
    continued_rate: float
    # Tokens/s of an H100.
    h100_tokens_per_s: int
    # Of the learning rates, for a comment.
    source: str

    def model(self, vocab_size: int) -> ModelConfig:
        """Return the model with a vocabulary of this size."""
        path = find_yaml(f"yamls/models/{self.file}.yaml", _PACKAGE)
        fields = read_mapping(path, str(path), "a model")["model"]
        width = fields["hidden_size"]
        # A model narrower than base needs larger weights to start at all; 0.02 is 0.55 / sqrt(768) (quickstart.yaml).
        spread = (
            {} if width >= ModelConfig.hidden_size else {"initializer_range": round(0.55 / width**0.5, 3)}
        )
        return ModelConfig(**{**fields, **spread, "vocab_size": vocab_size, "max_position_embeddings": 8_192})


# From small to large. ModernBERT's extension phases go on with 3e-4 and 5e-5; smaller models with the same 3/8 of their
# rate as base. Speeds: docs/speed.md.
_ETTIN, _MODERNBERT = "Ettin (2507.11412)", "ModernBERT (2412.13663)"
SIZES = (
    Size("quickstart", 3e-3, 1.1e-3, 985_030, "yamls/quickstart.yaml"),
    Size("ettin-17m", 3e-3, 1.1e-3, 985_030, _ETTIN),
    Size("small", 3e-3, 1.1e-3, 655_140, _ETTIN),
    Size("ettin-68m", 3e-3, 1.1e-3, 462_960, _ETTIN),
    Size("base", 8e-4, 3e-4, 307_350, _MODERNBERT),
    Size("large", 5e-4, 5e-5, 138_790, _MODERNBERT),
)


def flops_per_token(model: ModelConfig) -> float:
    """Return the model FLOPs of a token, with documents of CONTEXT_TOKENS."""
    return training_flops_per_token(model, [CONTEXT_TOKENS], MaskedLM(_MASK_RATE))


def nearest_size(model: ModelConfig) -> Size:
    """Return the size whose layers cost most nearly as much as those of a model."""
    flops = flops_per_token(model)
    return min(SIZES, key=lambda size: abs(flops_per_token(size.model(model.vocab_size)) / flops - 1))


def h100_tokens_per_s(model: ModelConfig) -> float:
    """Return the tokens/s of an H100, from the published figure of the nearest size and the FLOPs."""
    size = nearest_size(model)
    published = flops_per_token(size.model(ModelConfig.vocab_size))
    return size.h100_tokens_per_s * min(1.0, published / flops_per_token(model))


def measure_cpu_tokens_per_s(model: ModelConfig) -> float:
    """Measure the tokens/s of this machine's CPU."""
    from modernbert_train.planning.cpu_speed import measure_cpu
    from modernbert_train.schedule import build_schedule

    phase = PhaseConfig(
        tokens=1 << 20, batch_tokens=1 << 13, learning_rate=1e-3, mixture=MixtureConfig({"text": 1.0})
    )
    recipe = Recipe("speed", DataConfig("", {}), {"only": phase}, model=model)
    schedule = build_schedule(recipe)
    return schedule.total_tokens / measure_cpu(recipe, schedule).seconds(schedule.phases[0])


_WARM_UP_STEPS, _STEPS = 3, 10


def measure_gpu_tokens_per_s(model: ModelConfig, micro_batch_tokens: int) -> float:
    """Measure the tokens/s of this machine's GPU: compiled, in bf16, with documents of CONTEXT_TOKENS.

    Args:
        model: The model.
        micro_batch_tokens: Tokens of a forward and backward pass.

    Returns:
        Tokens/s, of which compiling (about a minute) is no part.
    """
    import torch

    from modernbert_train.config import OptimizerConfig
    from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
    from modernbert_train.model.backends import resolve_backend
    from modernbert_train.optim.optimizer import build_optimizer

    device = torch.device("cuda")
    encoder = ModernBertForMaskedLM(model, attention_backend=resolve_backend("auto", "cuda")[0])
    initialize_weights(encoder, model, torch.Generator().manual_seed(0))
    encoder.to(device)
    optimizer = build_optimizer(encoder, OptimizerConfig(), learning_rate=1e-4)
    loss_and_correct = torch.compile(encoder.loss_and_correct)
    num_documents = max(1, micro_batch_tokens // CONTEXT_TOKENS)
    num_tokens = num_documents * CONTEXT_TOKENS
    targets = torch.randperm(num_tokens, device=device)[: round(_MASK_RATE * num_tokens)].sort().values
    inputs = {
        "input_ids": torch.randint(model.vocab_size, (num_tokens,), device=device),
        "position_ids": torch.arange(num_tokens, device=device) % CONTEXT_TOKENS,
        "cu_seqlens": torch.arange(0, num_tokens + 1, CONTEXT_TOKENS, dtype=torch.int32, device=device),
        "max_seqlen": CONTEXT_TOKENS,
        "target_positions": targets,
        "labels": torch.randint(model.vocab_size, (len(targets),), device=device),
    }
    started = 0.0
    for step in range(_WARM_UP_STEPS + _STEPS):
        if step == _WARM_UP_STEPS:
            torch.cuda.synchronize()
            started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss, _ = loss_and_correct(**inputs)
        (loss / len(targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    return _STEPS * num_tokens / (time.perf_counter() - started)
