"""How long a run will take, in GPU-hours: from the tokens/s that its recipe states, else from its FLOPs."""

from modernbert_train.config import ModelConfig
from modernbert_train.optim.schedule import PhasePlan, RunPlan
from modernbert_train.training.flops import H100_PEAK_FLOPS, training_flops_per_token

# What ModernBERT-base and -large, at 26% and 33%, were trained with on H100s (published hours, FLOPs as counted here).
ASSUMED_UTILIZATION = 0.3
GPUS_SHOWN = (8, 32)


def tokens_per_s(model: ModelConfig, phase: PhasePlan) -> float:
    """Returns the tokens/s of a GPU in a phase, stated or estimated: documents as long as the context, on an H100."""
    if phase.config.tokens_per_s_per_gpu is not None:
        return phase.config.tokens_per_s_per_gpu
    flops = training_flops_per_token(model, [phase.config.context_tokens], phase.mask_rate)
    return ASSUMED_UTILIZATION * H100_PEAK_FLOPS / flops


def gpu_hours(phase: PhasePlan, speed: float) -> float:
    """Returns the hours that one GPU takes for a phase at so many tokens/s; n of them take the n-th part."""
    return phase.num_tokens / speed / 3_600


def describe_hours(model: ModelConfig, plan: RunPlan) -> str:
    """Returns in a line the GPU-hours of a run, and what they rest on."""
    total = sum(gpu_hours(phase, tokens_per_s(model, phase)) for phase in plan.phases)
    spans = ", ".join(f"{format_hours(total / count)} on {count} GPUs" for count in GPUS_SHOWN)
    stated = all(phase.config.tokens_per_s_per_gpu is not None for phase in plan.phases)
    return f"{format_hours(total)} GPU-hours ({spans}), by the tokens/s below, " + (
        "which the recipe states"
        if stated
        else f"at {ASSUMED_UTILIZATION:.0%} of an H100's peak where not stated"
    )


def format_hours(hours: float) -> str:
    """Returns hours to a tenth."""
    return f"{hours:,.1f}" if hours >= 0.05 else "<0.1"
