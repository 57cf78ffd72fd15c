"""The tokenizer of a run as Transformers loads it."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from modernbert_train.store.manifest import TOKENIZER_FILES, TokenizerInfo


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy tokenizer.json and, where there is one, tokenizer_config.json, as they stand."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def export_tokenizer(tokenizer: TokenizerInfo, folder: Path, context_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json so that `AutoTokenizer` gives what training gave.

    `model_max_length` is the context the weights were trained with. While training, [CLS] and [SEP] come from
    the loader; here the tokenizer must add them, so the template is added to a tokenizer that has none.
    """
    copy_tokenizer(tokenizer.path, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not _adds_cls_and_sep(backend, tokenizer):
        backend.post_processor = _template(backend, tokenizer)
        backend.save(str(folder / "tokenizer.json"))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    # What the config says of a special token already may say more, such as the space it takes in.
    config = _special_tokens(backend, tokenizer) | config
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "model_input_names": ["input_ids", "attention_mask"],  # the model has no token types
        "clean_up_tokenization_spaces": False,  # else decoding takes out spaces before punctuation
    }
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def text_ids(tokenizer: TokenizerInfo, text: str) -> list[int]:
    """Ids of a text as the encoder sees it while training: [CLS], content, [SEP]."""
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


def _template(backend: Tokenizer, tokenizer: TokenizerInfo) -> TemplateProcessing:
    cls_token, sep_token = backend.id_to_token(tokenizer.cls_id), backend.id_to_token(tokenizer.sep_id)
    return TemplateProcessing(
        single=[cls_token, "$A", sep_token],
        pair=[cls_token, "$A", sep_token, "$B:1", f"{sep_token}:1"],
        special_tokens=[(cls_token, tokenizer.cls_id), (sep_token, tokenizer.sep_id)],
    )


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
