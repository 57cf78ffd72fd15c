"""Trains a tokenizer of ModernBERT's kind: NFC, byte-level BPE, [CLS] and [SEP] around a text."""

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIAL_TOKENS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
NUM_BYTES = 256
DEFAULT_VOCAB_SIZE = 50_368  # ModernBERT's
MODEL_MAX_LENGTH = 8_192  # the longest context that the recipes train


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on `texts`. The result has `vocab_size` ids or fewer, if the texts do not yield as many merges.

    ValueError: a vocabulary that cannot hold the bytes and the special tokens; no text.
    """
    smallest = NUM_BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab-size: {vocab_size} must be at least {smallest} (the bytes and the special tokens)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        # " [MASK]" is one token, as the space before a masked word belongs to the word
        special_tokens=[
            AddedToken(token, special=True, normalized=False, lstrip=role == "mask")
            for role, token in SPECIAL_TOKENS.items()
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise ValueError("input: no document to train on; check the files")
    tokenizer.train_from_iterator(chain([first], texts), trainer)
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as transformers.AutoTokenizer loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_config(folder, SPECIAL_TOKENS)
    unfinished = folder / "tokenizer.json.tmp"
    tokenizer.save(str(unfinished))
    unfinished.rename(folder / "tokenizer.json")


def write_tokenizer_config(folder: Path, special_tokens: dict[str, str]) -> None:
    """Write the tokenizer_config.json of a tokenizer.json with these special tokens (role -> token)."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MODEL_MAX_LENGTH,
        "clean_up_tokenization_spaces": False,  # else decoding joins words to punctuation that was apart
        **{f"{role}_token": token for role, token in special_tokens.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
