"""Trains a tokenizer of ModernBERT's kind (NFC, byte-level BPE, [CLS] and [SEP] around a text), or fits one to be."""

import json
import unicodedata
from collections.abc import Iterable
from itertools import chain, count
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

from data_prep.tokenize.encoding import load_tokenizer
from modernbert_train.store.tokenizer import VOCAB_MULTIPLE

SPECIAL_TOKENS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
NUM_BYTES = 256
MODEL_MAX_LENGTH = 8_192  # the longest context that the recipes train
_PROBES = (
    "Ein Wort, two words.",
    "  spaces \t and\r\n\nlines  ",
    "[MASK] [CLS]x",
    "漢字 हिन्दी 🤖",
    "\x00\x7f",
    "e\u0301",
)


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
        special_tokens=_added_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise ValueError("input: no document to train on; check the files")
    tokenizer.train_from_iterator(chain([first], texts), trainer)
    _surround(tokenizer)
    return tokenizer


def fit_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json (or the folder of one) with ModernBERT's special tokens; every id it had stays.

    What is missing of [UNK], [CLS], [SEP], [PAD] and [MASK] comes after the last id, then [unused0], [unused1], ...
    up to a multiple of 64, as in ModernBERT's own tokenizer.
    ValueError: no tokenizer there; ids with gaps, into which new ones would fall.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"fit: {file} cannot be read as a tokenizer ({error})") from error
    ids = tokenizer.get_vocab().values()
    if len(set(ids)) != max(ids) + 1:
        raise ValueError(
            f"fit: {file} has {len(set(ids)):,} ids up to {max(ids):,}; fill the gaps with tokens of your own first"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_special_tokens(_added_tokens())
    unused = (f"[unused{number}]" for number in count())
    while tokenizer.get_vocab_size() % VOCAB_MULTIPLE:
        tokenizer.add_tokens([AddedToken(next(unused))])
    _surround(tokenizer)
    return tokenizer


def lost_text(tokenizer_json: Path) -> tuple[str, str] | None:
    """A text that decoding does not give back (Unicode's normal form aside) and what it gives, if there is one."""
    tokenizer = load_tokenizer(tokenizer_json)
    for text in _PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded not in (text, unicodedata.normalize("NFC", text)):
            return text, decoded
    return None


def _added_tokens() -> list[AddedToken]:
    # " [MASK]" is one token, as the space before a masked word belongs to the word
    return [
        AddedToken(token, special=True, normalized=False, lstrip=role == "mask")
        for role, token in SPECIAL_TOKENS.items()
    ]


def _surround(tokenizer: Tokenizer) -> None:
    """Have [CLS] and [SEP] added to a text that is encoded with special tokens."""
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


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
