"""A model's embeddings for another tokenizer: tokens that both have are carried over, the others begin as the mean.

The mean of all ordinary tokens is where a new token does least harm: drawn at random, its logit would be about
0, far above those of tokens the model has learned not to expect (Hewitt 2021, "Initializing New Word Embeddings
for Pretrained Language Models", nlp.stanford.edu/~johnhew/vocab-expansion.html). The embedding is the decoder's
matrix too; the decoder's bias is treated in the same way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from modernbert_train.config.architecture import DECODER_BIAS, EMBEDDING, TIED_WEIGHT
from modernbert_train.store.tokenizer import TokenizerInfo


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


_ROLES = ("cls_id", "sep_id", "pad_id", "mask_id", "unk_id")


@dataclass(frozen=True)
class TokenMatches:
    """Where the tokens of one tokenizer are found in another."""

    origins: np.ndarray  # [rows] int64: the old id of each new one, -1 for none
    ordinary: np.ndarray  # old ids of tokens of text: no specials, no [unused*], no gaps
    num_tokens: int  # of the new tokenizer
    num_shared: int  # have the same string in the old one
    num_by_role: int  # have the same role: CLS, SEP, PAD, MASK, UNK


def match_tokens(new: TokenizerInfo, old: TokenizerInfo, num_rows: int) -> TokenMatches:
    """Find each token of `new` in `old`: by its role if it has one, else by its string.

    `num_rows` is the vocabulary of the new model; rows that no token has are found nowhere. Strings are
    compared as the vocabularies spell them, so tokenizers of one kind (two byte-level BPE, two WordPiece)
    share more than those of two kinds.
    """
    old_ids, new_ids = _vocabulary(old), _vocabulary(new)
    roles = {
        getattr(new, role): getattr(old, role)
        for role in _ROLES
        if getattr(new, role) is not None and getattr(old, role) is not None
    }
    # A token that has a role in the old tokenizer is no token of text, whatever it is called in the new one.
    taken = {getattr(old, role) for role in _ROLES}
    origins = np.full(num_rows, -1, dtype=np.int64)
    for token, new_id in new_ids.items():
        old_id = old_ids.get(token)
        if old_id is not None and old_id not in taken:
            origins[new_id] = old_id
    for new_id, old_id in roles.items():
        origins[new_id] = old_id
    return TokenMatches(
        origins=origins,
        ordinary=np.setdiff1d(np.array(sorted(old_ids.values())), old.special_ids),
        num_tokens=len(new_ids),
        num_shared=int((origins >= 0).sum()) - len(roles),
        num_by_role=len(roles),
    )


def _vocabulary(tokenizer: TokenizerInfo) -> dict[str, int]:
    return Tokenizer.from_file(str(tokenizer.path / "tokenizer.json")).get_vocab(with_added_tokens=True)
