"""The tokenizer of a run as Transformers loads it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from modernbert_train.store.tokenizer import TokenizerInfo, cls_sep_template, copy_tokenizer


def export_tokenizer(tokenizer: TokenizerInfo, folder: Path, context_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json so that `AutoTokenizer` gives the ids of training.

    In training the loader adds [CLS] and [SEP]. Here the tokenizer must, so it gets a template if it has none.

    Args:
        tokenizer: The tokenizer of the weights.
        folder: The folder to write into.
        context_tokens: The context the weights were trained with, written as `model_max_length`.
    """
    copy_tokenizer(tokenizer.path, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not _adds_cls_and_sep(backend, tokenizer):
        cls_token, sep_token = map(backend.id_to_token, (tokenizer.cls_id, tokenizer.sep_id))
        backend.post_processor = cls_sep_template(backend, cls_token, sep_token)
        backend.save(str(folder / "tokenizer.json"))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    # An existing entry may hold more than the token's text, such as whether it absorbs the space before it.
    config = _special_tokens(backend, tokenizer) | config
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        # The model has no token types.
        "model_input_names": ["input_ids", "attention_mask"],
        # Otherwise decoding removes spaces before punctuation.
        "clean_up_tokenization_spaces": False,
    }
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def text_ids(tokenizer: TokenizerInfo, text: str) -> list[int]:
    """Return the ids of a text as the encoder sees it in training: [CLS], content, [SEP]."""
    backend = Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    return [tokenizer.cls_id, *backend.encode(text, add_special_tokens=False).ids, tokenizer.sep_id]


def _adds_cls_and_sep(backend: Tokenizer, tokenizer: TokenizerInfo) -> bool:
    probe = Tokenizer.from_str(backend.to_str())
    probe.no_padding()
    probe.no_truncation()
    ids = probe.encode("a").ids
    return len(ids) >= 2 and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id


def _special_tokens(backend: Tokenizer, tokenizer: TokenizerInfo) -> dict[str, Any]:
    ids = {
        "cls": tokenizer.cls_id, "sep": tokenizer.sep_id, "pad": tokenizer.pad_id,
        "mask": tokenizer.mask_id, "unk": tokenizer.unk_id,
    }  # fmt: skip
    return {
        f"{role}_token": backend.id_to_token(token_id)
        for role, token_id in ids.items()
        if token_id is not None
    }
