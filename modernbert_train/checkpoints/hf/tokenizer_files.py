"""The tokenizer of a run as Transformers and other programs load it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from modernbert_train.store.published_tokenizer import (
    prefix_space,
    published_tokenizer,
    special_tokens,
)
from modernbert_train.store.tokenizer import TokenizerInfo, read_tokenizer_config

SIDES = ("padding_side", "truncation_side")


def export_tokenizer(tokenizer: TokenizerInfo, folder: Path, context_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json so that every program gives the ids of training.

    Args:
        tokenizer: The tokenizer of the weights.
        folder: The folder to write into.
        context_tokens: The context the weights were trained with, written as `model_max_length`.
    """
    content = published_tokenizer(tokenizer)
    _write(folder / "tokenizer.json", content)
    backend = Tokenizer.from_str(json.dumps(content))
    config = _tokenizer_config(read_tokenizer_config(tokenizer.path), content, backend, tokenizer)
    _write(folder / "tokenizer_config.json", config | {"model_max_length": context_tokens})


def _tokenizer_config(
    config: dict[str, Any], content: dict[str, Any], backend: Tokenizer, tokenizer: TokenizerInfo
) -> dict[str, Any]:
    """Return the fields that Transformers 4 and 5 read alike.

    A token that they name becomes special, and so changes the ids of texts with it, unless it is already. Nothing
    else is taken from the tokenizer's own config: other fields change the ids (`add_eos_token`,
    `split_special_tokens`), add ids beyond the embedding, run code (`auto_map`), or have another type in the other
    version.

    Args:
        config: The tokenizer's own tokenizer_config.json.
        content: The exported tokenizer.json, which alone says how tokens are matched (`lstrip`, `normalized`).
        backend: The exported tokenizer.
        tokenizer: Its ids.
    """
    names = {role: token for role, (token, _) in special_tokens(backend, tokenizer).items()}
    special = {entry["content"] for entry in content["added_tokens"] if entry["special"]}
    named = {role: _text(config.get(f"{role}_token")) for role in ("bos", "eos")}
    names |= {role: token for role, token in named.items() if token in special}
    published: dict[str, Any] = {
        # Transformers 5 calls it TokenizersBackend and reads both names; 4 knows this one only.
        "tokenizer_class": "PreTrainedTokenizerFast",
        # The model has no token types.
        "model_input_names": ["input_ids", "attention_mask"],
        # Otherwise decoding removes spaces before punctuation.
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": token for role, token in names.items()},
        **{side: config[side] for side in SIDES if config.get(side) in ("left", "right")},
    }
    # Transformers 4 would set a missing one to False.
    if (adds := prefix_space(content)) is not None:
        published["add_prefix_space"] = adds
    extra = config.get("extra_special_tokens") or []
    unnamed = [*(config.get("additional_special_tokens") or []), *(extra if isinstance(extra, list) else [])]
    # Transformers 5 writes a list to `extra_special_tokens`, where 4 expects a dict. Both read the older name.
    known = {text: None for token in unnamed if (text := _text(token)) in special}
    if known:
        published["additional_special_tokens"] = list(known)
    if isinstance(extra, dict):
        texts = {name: _text(token) for name, token in extra.items()}
        texts = {name: text for name, text in texts.items() if text in special}
        published |= {"extra_special_tokens": texts} if texts else {}
    return published


def _text(token: Any) -> str:
    """Return the text of a token in a tokenizer_config.json: a string, or a dict of its properties; empty for null."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
