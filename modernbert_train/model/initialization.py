"""Initialization: full-megatron, the one ModernBERT was pretrained with, and BERT's where the norm comes last.

Truncated normal, sigma = initializer_range, cut off at initializer_cutoff_factor * sigma to either side:
    token embedding (= decoder), learned positions, attn.Wqkv, mlp.Wi, head.dense     sigma
    attn.Wo, mlp.Wo (what is added to the residual stream), norm_placement pre        sigma / sqrt(2 * layers)
    attn.Wo, mlp.Wo, norm_placement post                                              sigma
Norms are 1, biases 0.

Sources: `init_weights` in src/bert_layers/initialization.py and `FlexBertPredictionHead._init_weights` in
model.py of the ModernBERT research code (github.com/AnswerDotAI/ModernBERT). Transformers differs in one
place: it scales head.dense down as well. The research code, which the published weights come from, does not;
and head.dense adds to no residual stream that deepens with the layers. So neither do we. Nor does such a
stream deepen where every sum is normed: there it is `create_initializer` in modeling.py of
github.com/google-research/bert, a normal of 0.02 cut off at two sigma for every matrix (Transformers' BERT
does not cut it off).
"""

import math

import torch
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.model.encoder import ModernBertForMaskedLM


@torch.no_grad()
def initialize_weights(model: ModernBertForMaskedLM, config: ModelConfig, generator: torch.Generator) -> None:
    """Fill the model's weights in place, in the order of their names: the same generator, the same weights.

    The generator must live on the device of the weights.
    """
    in_std = config.initializer_range
    out_std = in_std / math.sqrt(2 * config.num_hidden_layers) if config.norm_placement == "pre" else in_std
    for name, weight in model.named_parameters():  # a tied weight comes once
        if name.endswith(".bias"):
            weight.zero_()
        elif weight.ndim == 1:  # of a norm; nothing else has one dimension
            weight.fill_(1.0)
        else:
            std = out_std if name.endswith(".Wo.weight") else in_std
            cutoff = config.initializer_cutoff_factor * std
            nn.init.trunc_normal_(weight, std=std, a=-cutoff, b=cutoff, generator=generator)
