"""The rules by which a recipe is chosen. Pure.

tokens      what the hours allow at the speed of the machine, at most 4 epochs over the text: up to there repeated
            text is nearly as good as new (Muennighoff et al. 2023, 2305.16264)
model       the largest that gets 20 tokens per parameter (Hoffmann et al. 2022, 2203.15556)
batch       0.292 C^0.327 tokens for C training FLOPs (DeepSeek LLM 2024, 2401.02954, eq. 1), with 200 steps or more
context     the power of two that holds 95% of the documents, from 128 to 1,024; shorter where a batch has too few
            rows, down to 64, unless the run starts from weights
mixture     shares proportional to tokens^0.7 (mmBERT 2025, 2509.06888), no source above 4 epochs
phases      a fifth of the tokens for the decay (Hägele et al. 2024, 2405.18392); 6% for the warmup (MosaicBERT,
            2312.17482); a tenth for a context of 8,192 in runs of 1B tokens or more with long documents
evaluation  up to 200,000 held-out tokens of each source, as many as make 5 evaluations take 5% of the time, but at
            least 10,000 in all; an evaluation after each phase, and every tenth of the run and every hour if the 5%
            allow
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import num_hidden_weights, num_parameters
from modernbert_train.config.filling import FEWEST_ROWS
from modernbert_train.config.schema import DataConfig, PhaseConfig
from modernbert_train.recipe.facts import Text, Weights
from modernbert_train.recipe.speed import SIZES, Size, nearest_size

Speed = Callable[[ModelConfig], float]  # tokens/s of one device

MOST_EPOCHS = 4
TOKENS_PER_PARAMETER = 20
FEWEST_STEPS = 200
TEMPERATURE = 0.7
# Of the hours, the rest is for starting, evaluation and checkpoints.
TRAINING_SHARE = 0.9
WARMUP_SHARE, DECAY_SHARE, EXTENSION_SHARE = 0.06, 0.2, 0.1
# Of the time, for evaluation.
_EVALUATION_SHARE = 0.05
_FEWEST_EVALUATIONS, _NUM_EVALUATIONS = 5, 10
# Held-out tokens of an evaluation. 15% of them are masked: 30,000 give the mean loss to about 0.02 nats, 1,500 to 0.1.
_MOST_HELD_OUT, _FEWEST_HELD_OUT = 200_000, 10_000

_SHORTEST_CONTEXT, _FEWEST_ROWS_OF_A_BATCH = 64, 4
_LONG_CONTEXT, _LONG_RUN_TOKENS, _LONG_SHARE = 8_192, 10**9, 0.05
# Tokens of a forward and backward pass: one-gpu-one-day.yaml has 65,536 for base on a GPU of 80 GB.
_CPU_PASS_TOKENS, _GPU_PASS_TOKENS, _LARGE_GPU_PASS_TOKENS = 8_192, 65_536, 32_768
GPUS_PER_MACHINE = 8


@dataclass(frozen=True)
class Choice:
    """Everything that a recipe states because of its store, machine and hours."""

    model: ModelConfig
    size: Size
    # 0: a CPU.
    num_gpus: int
    tokens_per_s: float
    # Tokens of each phase, in whole steps; extension may be 0.
    pretrain_tokens: int
    extension_tokens: int
    decay_tokens: int
    warmup_tokens: int
    batch_tokens: int
    row_tokens: int
    context_tokens: int
    micro_batch_tokens: int
    num_streams: int
    num_canonical_nodes: int
    # Source -> share of the tokens.
    shares: dict[str, float]
    learning_rate: float
    save_every_tokens: int
    # 0: only at the end of each phase.
    evaluate_every_tokens: int
    # Of each source.
    max_rows: int
    # Of the time of training.
    evaluation_share: float
    # Whether the text, not the hours, limits the tokens.
    limited_by_text: bool

    @property
    def tokens(self) -> int:
        """Tokens of the run."""
        return self.pretrain_tokens + self.extension_tokens + self.decay_tokens

    @property
    def hours(self) -> float:
        """Hours that the run takes."""
        return self.tokens / (self.tokens_per_s * max(1, self.num_gpus) * TRAINING_SHARE * 3_600)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.tokens // self.batch_tokens


def choose(
    text: Text,
    hours: float,
    num_gpus: int,
    speed: Speed,
    weights: Weights | None = None,
    fixed_size: Size | None = None,
) -> Choice:
    """Choose a recipe.

    Args:
        text: What there is to read.
        hours: What the run may take.
        num_gpus: GPUs at hand; 0: a CPU.
        speed: Tokens/s of one device with a model.
        weights: What to start from; None: random weights.
        fixed_size: Size of the model; None: chosen here.

    Returns:
        The choice, for fewer GPUs if a batch has too few rows for all.
    """
    seconds = hours * 3_600 * TRAINING_SHARE * max(1, num_gpus)
    most_tokens = MOST_EPOCHS * text.num_tokens
    size, model = _choose_model(
        text, weights, fixed_size, lambda model: min(speed(model) * seconds, most_tokens)
    )
    tokens_per_s = speed(model)
    tokens = min(int(tokens_per_s * seconds), most_tokens)
    batch = min(0.292 * (6 * num_hidden_weights(model) * tokens) ** 0.3271, tokens / FEWEST_STEPS)

    context = _power_of_two(min(text.p95_tokens + 2, 1_024), at_least=128)
    context = min(context, model.max_position_embeddings)
    # Weights to start from would forget what they know of longer text.
    while weights is None and context > _SHORTEST_CONTEXT and context * _FEWEST_ROWS_OF_A_BATCH > batch:
        context //= 2
    devices = max(1, num_gpus)
    if batch < context * devices and devices > 1:
        return choose(
            text, hours, min(devices // 2, _power_of_two(batch / context)), speed, weights, fixed_size
        )
    row = context
    while row < PhaseConfig.row_tokens and batch / (2 * row) >= max(FEWEST_ROWS, devices):
        row *= 2
    rows_per_device = max(
        1 if num_gpus > 1 else _FEWEST_ROWS_OF_A_BATCH, _power_of_two(batch / (row * devices))
    )
    batch_tokens = row * devices * rows_per_device
    share = min(rows_per_device, max(1, _power_of_two(DataConfig.num_streams / devices)))

    steps = max(3, tokens // batch_tokens)
    decay, warmup = max(1, round(DECAY_SHARE * steps)), round(WARMUP_SHARE * steps)
    # Weights to start from have been trained at the context that they have.
    is_long = tokens >= _LONG_RUN_TOKENS and text.long_share >= _LONG_SHARE and weights is None
    extension = round(EXTENSION_SHARE * steps) if is_long and row == _LONG_CONTEXT else 0
    machines = -(-num_gpus // GPUS_PER_MACHINE) if text.is_remote else 1
    streams = devices * share
    every = max(1, min(steps // _NUM_EVALUATIONS, int(tokens_per_s * devices * 3_600 / batch_tokens)))
    evaluation = _choose_evaluation(text, steps, batch_tokens, row, every, num_phases=3 if extension else 2)
    return Choice(
        model=model,
        size=size,
        num_gpus=num_gpus,
        tokens_per_s=tokens_per_s,
        pretrain_tokens=(steps - decay - extension) * batch_tokens,
        extension_tokens=extension * batch_tokens,
        decay_tokens=decay * batch_tokens,
        warmup_tokens=min(warmup, steps - decay - extension) * batch_tokens,
        batch_tokens=batch_tokens,
        row_tokens=row,
        context_tokens=context,
        micro_batch_tokens=row * min(rows_per_device, _power_of_two(_pass_tokens(size, num_gpus) / row)),
        num_streams=streams,
        num_canonical_nodes=machines if streams % machines == 0 else 1,
        shares=choose_shares(
            {source.name: source.num_tokens for source in text.sources}, steps * batch_tokens
        ),
        learning_rate=size.learning_rate if weights is None else size.continued_rate,
        save_every_tokens=every * batch_tokens,
        evaluate_every_tokens=evaluation.every_tokens,
        max_rows=evaluation.max_rows,
        evaluation_share=evaluation.share,
        limited_by_text=tokens == most_tokens,
    )


def _choose_model(
    text: Text, weights: Weights | None, size: Size | None, tokens: Callable[[ModelConfig], float]
) -> tuple[Size, ModelConfig]:
    """Return the model of the weights, or the largest with enough tokens: sizes are tried from small to large."""
    if weights is not None:
        return nearest_size(weights.model), weights.model
    if size is not None:
        return size, size.model(text.vocab_size)
    chosen = SIZES[0]
    for larger in SIZES[1:]:
        model = larger.model(text.vocab_size)
        needed = TOKENS_PER_PARAMETER * num_parameters(model)
        if MOST_EPOCHS * text.num_tokens < needed or tokens(model) < needed:
            break
        chosen = larger
    return chosen, chosen.model(text.vocab_size)


class _Evaluation(NamedTuple):
    every_tokens: int
    max_rows: int
    share: float


def _choose_evaluation(
    text: Text, steps: int, batch_tokens: int, row_tokens: int, every: int, num_phases: int
) -> _Evaluation:
    """Choose rows first, and then evaluations, `every` steps or fewer: a figure of few tokens says nothing."""
    held_out = [source.num_held_out_tokens for source in text.sources if source.has_held_out]
    if not held_out:
        return _Evaluation(0, 1, 0.0)
    tokens = steps * batch_tokens
    # A token of evaluation costs a third of one of training, which also goes backward.
    affordable = 3 * _EVALUATION_SHARE * tokens / _FEWEST_EVALUATIONS
    of_each = min(_MOST_HELD_OUT, max(_FEWEST_HELD_OUT, affordable) / len(held_out))
    rows = math.ceil(of_each / row_tokens)
    cost = sum(min(rows * row_tokens, number) for number in held_out) / 3
    between = round(_EVALUATION_SHARE * tokens / cost) - num_phases
    every_tokens = max(every, math.ceil(steps / (between + 1))) * batch_tokens if between > 0 else 0
    count = num_phases + ((tokens - 1) // every_tokens if every_tokens else 0)
    return _Evaluation(every_tokens, rows, count * cost / tokens)


def _power_of_two(number: float, at_least: int = 1) -> int:
    """Return the largest power of two up to `number`, or the smallest that is not below it if `at_least` is given."""
    power = at_least
    if at_least > 1:
        while power < number:
            power *= 2
        return power
    while 2 * power <= number:
        power *= 2
    return power


def _pass_tokens(size: Size, num_gpus: int) -> int:
    if num_gpus == 0:
        return _CPU_PASS_TOKENS
    return _LARGE_GPU_PASS_TOKENS if size.file == "large" else _GPU_PASS_TOKENS


def choose_shares(tokens: Mapping[str, int], run_tokens: int) -> dict[str, float]:
    """Choose the share of each source.

    Args:
        tokens: Source -> its tokens.
        run_tokens: Tokens of the run.

    Returns:
        Source -> share, proportional to tokens^0.7, where that repeats no source more than 4 times; what is above
        goes to the others.
    """
    most = {name: MOST_EPOCHS * number / run_tokens for name, number in tokens.items()}
    fixed: dict[str, float] = {}
    while True:
        rest = {name: number**TEMPERATURE for name, number in tokens.items() if name not in fixed}
        left = 1 - sum(fixed.values())
        total = sum(rest.values())
        shares = {name: left * weight / total for name, weight in rest.items()}
        above = {name: most[name] for name, share in shares.items() if share > most[name]}
        if not above or len(above) == len(
            rest
        ):  # all of them: the run is longer than 4 epochs over everything
            whole = fixed | shares
            return {name: whole[name] for name in tokens}
        fixed |= above
