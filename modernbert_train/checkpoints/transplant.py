"""Embeddings for another tokenizer: tokens that both tokenizers have are copied, the others start as the mean.

The mean of all ordinary tokens is where a new token does least harm: drawn at random, its logit would be about 0, far
above those of tokens that the model has learned not to expect (Hewitt 2021, "Initializing New Word Embeddings for
Pretrained Language Models", nlp.stanford.edu/~johnhew/vocab-expansion.html). The embedding is also the decoder's
matrix; the decoder's bias is treated in the same way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from modernbert_train.config.architecture import DECODER_BIAS, EMBEDDING, TIED_WEIGHT
from modernbert_train.store.tokenizer import TokenizerInfo

_ROLES = ("cls_id", "sep_id", "pad_id", "mask_id", "unk_id")


@dataclass(frozen=True)
class TokenMatches:
    """The tokens of a new tokenizer in an old one."""

    # [rows] int64: the old id of each new id, or -1.
    origins: np.ndarray
    # Old ids of ordinary tokens: no special tokens, no [unused*], no gaps.
    ordinary: np.ndarray
    # Of the new tokenizer.
    num_tokens: int
    # Tokens with the same string in the old tokenizer.
    num_shared: int
    # Tokens with the same role: CLS, SEP, PAD, MASK, UNK.
    num_by_role: int


def match_tokens(new: TokenizerInfo, old: TokenizerInfo, num_rows: int) -> TokenMatches:
    """Match each token of `new` with one of `old`: by its role if it has one, otherwise by its string.

    Strings are compared as the vocabularies store them, so two tokenizers of one kind (two byte-level BPE, two
    WordPiece) share more tokens than two of different kinds.

    Args:
        new: The tokenizer of the new model.
        old: The tokenizer of the weights.
        num_rows: The vocabulary size of the new model; rows without a token have no match.

    Returns:
        The matches.
    """
    old_ids, new_ids = _vocabulary(old), _vocabulary(new)
    roles = {
        getattr(new, role): getattr(old, role)
        for role in _ROLES
        if getattr(new, role) is not None and getattr(old, role) is not None
    }
    # A token with a role in the old tokenizer is not text, even if its string is an ordinary token in the new one.
    special = {getattr(old, role) for role in _ROLES}
    origins = np.full(num_rows, -1, dtype=np.int64)
    for token, new_id in new_ids.items():
        old_id = old_ids.get(token)
        if old_id is not None and old_id not in special:
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


def transplant(
    weights: dict[str, torch.Tensor], origins: torch.Tensor, ordinary: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the weights with an embedding [rows, hidden] and a decoder bias [rows] for another vocabulary.

    Args:
        weights: The weights of the old model.
        origins: The old row of each new one, or -1 for none, [rows].
        ordinary: The old rows whose mean the others get, [ordinary tokens].
    """
    new = {name: _rows(weights[name], origins, ordinary) for name in (EMBEDDING, DECODER_BIAS)}
    return {**weights, **new, TIED_WEIGHT: new[EMBEDDING]}


def _rows(table: torch.Tensor, origins: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
    rows = table[origins.clamp(min=0)]
    rows[origins < 0] = table[ordinary].mean(dim=0)
    return rows
