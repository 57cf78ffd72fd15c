"""A model's embeddings for another tokenizer: tokens that both have are carried over, the others begin as the mean.

The mean of all ordinary tokens is where a new token does least harm: drawn at random, its logit would be about
0, far above those of tokens the model has learned not to expect (Hewitt 2021, "Initializing New Word Embeddings
for Pretrained Language Models", nlp.stanford.edu/~johnhew/vocab-expansion.html). The embedding is the decoder's
matrix too; the decoder's bias is treated in the same way.
"""

import torch

from modernbert_train.model.encoder import DECODER_BIAS, EMBEDDING, TIED_WEIGHT


def transplant(
    weights: dict[str, torch.Tensor], origins: torch.Tensor, ordinary: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The weights with an embedding [W, d] and a decoder bias [W] for another vocabulary of W rows.

    `origins` [W]: the row of the old vocabulary that each new one is, or -1 for none. `ordinary` [K]: the rows
    whose mean the others get, those of tokens of text.
    """
    new = {name: _rows(weights[name], origins, ordinary) for name in (EMBEDDING, DECODER_BIAS)}
    return {**weights, **new, TIED_WEIGHT: new[EMBEDDING]}


def _rows(table: torch.Tensor, origins: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
    rows = table[origins.clamp(min=0)]
    rows[origins < 0] = table[ordinary].mean(dim=0)
    return rows
