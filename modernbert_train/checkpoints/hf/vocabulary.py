"""Rows of the embedding that no token has: added to published weights, and removed again by export.

A published vocabulary, such as BERT's 30,522, need not be the multiple of 64 that `padded_vocab_size` asks for. An
added row is zero, and its decoder bias is so low that its probability is exactly 0. Therefore the loss and the logits
of the tokens are unchanged, the row gets no gradient and stays as it is, and export finds and removes it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.config.architecture import DECODER_BIAS, EMBEDDING, TIED_WEIGHT

# exp(-1,000) is 0 even in float64. float16 and bfloat16 represent it exactly.
PADDING_BIAS = -1_000.0


def resize_vocabulary(weights: dict[str, Tensor], num_rows: int) -> dict[str, Tensor]:
    """Return the weights with `num_rows` rows in the embedding and the decoder's bias, more or fewer than before."""
    embedding, bias = weights[EMBEDDING][:num_rows], weights[DECODER_BIAS][:num_rows]
    num_new = num_rows - len(embedding)
    if num_new > 0:
        embedding = torch.cat([embedding, embedding.new_zeros(num_new, embedding.shape[1])])
        bias = torch.cat([bias, bias.new_full((num_new,), PADDING_BIAS)])
    return {**weights, EMBEDDING: embedding, TIED_WEIGHT: embedding, DECODER_BIAS: bias}


def without_padding(
    info: CheckpointInfo, weights: dict[str, Tensor]
) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    """Return a checkpoint without the rows that `resize_vocabulary` added at its end."""
    # Half, in case a mean or weight decay has moved the bias.
    is_token = (weights[EMBEDDING] != 0).any(dim=1) | (weights[DECODER_BIAS] > PADDING_BIAS / 2)
    num_rows = int(is_token.nonzero().max()) + 1
    model = replace(info.model, vocab_size=num_rows)
    return replace(info, model=model), resize_vocabulary(weights, num_rows)
