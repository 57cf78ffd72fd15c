"""The speed at which this machine's CPU trains a recipe, from a few steps of its model, or of the first layers of it.

Takes a few seconds. Packing, evaluation and checkpoints are not part of it, and the steps are not compiled.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from modernbert_train.config import ModelConfig, Recipe
from modernbert_train.config.architecture import num_parameters
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.model.initialization import initialize_weights
from modernbert_train.optim.optimizer import build_optimizer
from modernbert_train.planning.cost import format_span, training_flops_per_token
from modernbert_train.planning.device import resolve_precision
from modernbert_train.schedule import PhaseSchedule, RunSchedule

# Of a larger model, one period of global and local layers is measured, with a smaller vocabulary; the rest counts by
# its FLOPs.
_WHOLE_PARAMETERS, _PART_VOCABULARY = 20_000_000, 8_192
# A forward and backward pass takes about a second, if that is from 16 to 1,024 tokens.
_PASS_SECONDS, _FEWEST_TOKENS, _MOST_TOKENS = 1.0, 16, 1_024
# Passes are repeated for this long, at most so often; the fastest counts, since other programs can only slow one down.
_SECONDS, _REPEATS = 1.0, 5


@dataclass(frozen=True)
class CpuSpeed:
    """What the CPU reaches with a model."""

    model: ModelConfig
    # Model FLOP/s of a forward and backward pass.
    flops_per_s: float
    # Of an optimizer step of the whole model.
    optimizer_seconds: float
    num_layers: int
    num_threads: int

    def seconds(self, phase: PhaseSchedule) -> float:
        """Return the time that a phase takes here, with documents as long as the context."""
        flops = training_flops_per_token(self.model, [phase.config.context_tokens], phase.objective)
        return phase.num_tokens * flops / self.flops_per_s + phase.num_steps * self.optimizer_seconds

    def describe(self, schedule: RunSchedule) -> str:
        """Return the time and tokens/s of a run, and how they were measured."""
        seconds = sum(map(self.seconds, schedule.phases))
        layers = self.model.num_hidden_layers
        of_what = "the model" if self.num_layers == layers else f"{self.num_layers} of {layers} layers"
        speed = schedule.total_tokens / seconds
        cores = "1 core" if self.num_threads == 1 else f"{self.num_threads} cores"
        return (
            f"about {format_span(seconds)} on {cores} of this CPU, at {speed:,.{0 if speed >= 10 else 1}f} tokens/s "
            f"(from a few steps of {of_what}, not compiled; without evaluation and checkpoints)"
        )


def measure_cpu(recipe: Recipe, schedule: RunSchedule) -> CpuSpeed:
    """Measure the speed of this machine's CPU with the model, precision and optimizer of a recipe."""
    phase = schedule.phases[0]
    whole = part = recipe.model
    if num_parameters(whole) > _WHOLE_PARAMETERS:
        layers = min(whole.num_hidden_layers, whole.global_attn_every_n_layers)
        part = replace(whole, num_hidden_layers=layers, vocab_size=min(whole.vocab_size, _PART_VOCABULARY))
    bf16 = resolve_precision(recipe, "cpu") == "bf16"  # much slower than fp32 on some CPUs
    context = phase.config.context_tokens
    fitting = (
        _PASS_SECONDS
        * _matrix_flops_per_s(whole.hidden_size, bf16)
        / training_flops_per_token(part, [context], phase.objective)
    )
    tokens = min(phase.config.micro_batch_tokens, max(_FEWEST_TOKENS, min(int(fitting), _MOST_TOKENS)))
    lengths = [min(context, tokens)] * max(1, tokens // context)

    model = ModernBertForMaskedLM(part, attention_backend="torch")
    # Weights of PyTorch's default scale would make denormal numbers, with which a CPU is many times slower.
    with torch.no_grad():
        initialize_weights(model, part, torch.Generator().manual_seed(recipe.seed))
    model.set_causal(phase.objective.causal)
    optimizer = build_optimizer(model, recipe.optimizer, phase.config.learning_rate)
    inputs = _random_inputs(part, lengths, phase)

    def forward_and_backward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = model.loss_and_correct(**inputs)
        loss.backward()

    pass_seconds = _fastest(forward_and_backward)
    step_seconds = _fastest(optimizer.step)
    return CpuSpeed(
        whole,
        flops_per_s=sum(lengths) * training_flops_per_token(part, lengths, phase.objective) / pass_seconds,
        optimizer_seconds=step_seconds * num_parameters(whole) / num_parameters(part),
        num_layers=part.num_hidden_layers,
        num_threads=torch.get_num_threads(),
    )


def _matrix_flops_per_s(size: int, bf16: bool) -> float:
    """Return the FLOP/s of a product of square matrices."""
    matrix = torch.ones(size, size, dtype=torch.bfloat16 if bf16 else torch.float32)
    return 2 * size**3 / _fastest(lambda: matrix @ matrix)


def _random_inputs(model: ModelConfig, lengths: Sequence[int], phase: PhaseSchedule) -> dict[str, Any]:
    """Return inputs of `loss_and_correct`: documents of these lengths, with as many targets as in the phase."""
    num_tokens = sum(lengths)
    num_targets = max(1, round(num_tokens * phase.objective.target_share(lengths)))
    return {
        "input_ids": torch.randint(model.vocab_size, (num_tokens,)),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "cu_seqlens": torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        "max_seqlen": max(lengths),
        "target_positions": torch.randperm(num_tokens)[:num_targets],
        "labels": torch.randint(model.vocab_size, (num_targets,)),
    }


def _fastest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few calls; the first is slower, and counts if it takes long enough."""
    started = time.perf_counter()
    seconds: list[float] = []
    while not seconds or (len(seconds) < _REPEATS and time.perf_counter() - started < _SECONDS):
        before = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - before)
    return min(seconds)
