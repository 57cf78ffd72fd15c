"""Trains a tokenizer like ModernBERT's (NFC, byte-level BPE, [CLS] and [SEP] around a text), or adapts another one."""

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
    trainers,
)

from data_prep.tokenize.encoding import load_tokenizer
from modernbert_train.common.files import write_atomically
from modernbert_train.store.tokenizer import TokenizerInfo, cls_sep_template, copy_tokenizer
from modernbert_train.store.vocabulary import VOCAB_MULTIPLE

SPECIAL_TOKENS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
NUM_BYTES = 256
MODEL_MAX_LENGTH = 8_192  # the longest context of the recipes
_PROBES = (
    "Ein Wort, two words.",
    "  spaces \t and\r\n\nlines  ",
    "[MASK] [CLS]x",
    "漢字 हिन्दी 🤖",
    "\x00\x7f",
    "e\u0301",
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer on `texts`.

    Returns:
        A tokenizer with `vocab_size` ids, or fewer if the texts do not yield as many merges.

    Raises:
        ValueError: The vocabulary is too small for the bytes and special tokens, or there is no text.
    """
    smallest = NUM_BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab-size: {vocab_size} must be at least {smallest} (bytes and special tokens)")
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
    """Add ModernBERT's special tokens to a tokenizer and keep all its ids.

    Missing tokens of [UNK], [CLS], [SEP], [PAD] and [MASK] get the ids after the last one, followed by [unused0],
    [unused1], ... up to a multiple of 64, as in ModernBERT's own tokenizer.

    Args:
        path: tokenizer.json or its folder.

    Returns:
        The extended tokenizer.

    Raises:
        ValueError: The file is not a tokenizer, or its ids have gaps, which new tokens would fill.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no narrower type
        raise ValueError(f"fit: {file} cannot be read as a tokenizer ({error})") from error
    ids = tokenizer.get_vocab().values()
    if len(set(ids)) != max(ids) + 1:
        raise ValueError(
            f"fit: {file} has {len(set(ids)):,} ids up to {max(ids):,}; fill the gaps with added tokens first"
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
    """Look for a text that does not survive encoding and decoding (apart from Unicode normalization).

    Returns:
        The text and what it decodes to, None if all test texts survive.
    """
    tokenizer = load_tokenizer(tokenizer_json)
    for text in _PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded not in (text, unicodedata.normalize("NFC", text)):
            return text, decoded
    return None


def _added_tokens() -> list[AddedToken]:
    # lstrip: the space before a masked word belongs to the word, so " [MASK]" is one token
    return [
        AddedToken(token, special=True, normalized=False, lstrip=role == "mask")
        for role, token in SPECIAL_TOKENS.items()
    ]


def _surround(tokenizer: Tokenizer) -> None:
    """Add [CLS] and [SEP] to texts that are encoded with special tokens."""
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.post_processor = cls_sep_template(tokenizer, cls, sep)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json in the form that transformers.AutoTokenizer loads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_config(folder, SPECIAL_TOKENS)
    write_atomically(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


def write_tokenizer_config(folder: Path, special_tokens: dict[str, str]) -> None:
    """Write a tokenizer_config.json.

    Args:
        folder: to write to.
        special_tokens: role ("cls", "mask", ...) -> token.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MODEL_MAX_LENGTH,
        "clean_up_tokenization_spaces": False,  # True would remove spaces before punctuation when decoding
        **{f"{role}_token": token for role, token in special_tokens.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def add_tokenizer(info: TokenizerInfo, folder: Path) -> None:
    """Copy the files of a tokenizer into a store; write a minimal tokenizer_config.json if there is none."""
    copy_tokenizer(info.path, folder)
    if not (folder / "tokenizer_config.json").is_file():
        # without a config, load_tokenizer_info looks for ModernBERT's names of the special tokens
        roles = [role for role in SPECIAL_TOKENS if role != "unk" or info.unk_id is not None]
        write_tokenizer_config(folder, {role: SPECIAL_TOKENS[role] for role in roles})
