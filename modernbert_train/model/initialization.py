"""Initialization: ModernBERT's ("full-megatron") for pre-norm encoders, BERT's for post-norm encoders.

Matrices are drawn from a normal distribution with standard deviation sigma = initializer_range, truncated at
initializer_cutoff_factor standard deviations:

    token embedding (= decoder), learned positions, attn.Wqkv, mlp.Wi, head.dense     sigma
    attn.Wo, mlp.Wo, pre-norm                                                         sigma / sqrt(2 * layers)
    attn.Wo, mlp.Wo, post-norm                                                        sigma

Norm weights are 1, biases 0.

Pre-norm: attn.Wo and mlp.Wo add to the residual stream, whose variance would grow with the number of layers. Sources:
`init_weights` in src/bert_layers/initialization.py and `FlexBertPredictionHead._init_weights` in model.py of the
ModernBERT research code (github.com/AnswerDotAI/ModernBERT). Transformers also scales head.dense down; the research
code, which the published weights come from, does not, and neither do we: head.dense adds to no residual stream.

Post-norm: every sum is normed, so nothing grows. Source: `create_initializer` in modeling.py of
github.com/google-research/bert. Transformers' BERT does not truncate.
"""

import math

import torch
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.model.encoder import ModernBertForMaskedLM


@torch.no_grad()
def initialize_weights(model: ModernBertForMaskedLM, config: ModelConfig, generator: torch.Generator) -> None:
    """Initialize the model's weights in place.

    Args:
        model: whose weights are drawn one after the other, so that a generator's state determines all of them.
        config: the model's.
        generator: on the device of the weights.
    """
    for name, weight in model.named_parameters():  # a tied weight is listed once
        initialize_weight(name, weight, config, generator)


@torch.no_grad()
def initialize_weight(
    name: str, weight: torch.Tensor, config: ModelConfig, generator: torch.Generator
) -> None:
    """Initialize one weight of the model in place; see `initialize_weights`."""
    if name.endswith(".bias"):
        weight.zero_()
    elif weight.ndim == 1:  # only norms have weights with one dimension
        weight.fill_(1.0)
    else:
        std = config.initializer_range
        if name.endswith(".Wo.weight") and config.norm_placement == "pre":
            std /= math.sqrt(2 * config.num_hidden_layers)
        cutoff = config.initializer_cutoff_factor * std
        nn.init.trunc_normal_(weight, std=std, a=-cutoff, b=cutoff, generator=generator)
