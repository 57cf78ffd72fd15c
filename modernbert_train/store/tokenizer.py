"""Facts about a tokenizer that training needs: its special ids, sizes and fingerprint."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from modernbert_train.store.vocabulary import padded_vocab_size

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

# Parts of tokenizer.json that do not affect content ids: settings of the program that saved it last, and the template
# that adds [CLS] and [SEP], which are added when a store is read.
_WITHOUT_INFLUENCE = ("truncation", "padding", "post_processor")
_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")


@dataclass(frozen=True)
class TokenizerInfo:
    """Ids of a tokenizer."""

    # Folder that holds tokenizer.json.
    path: Path
    # See `tokenizer_fingerprint`.
    fingerprint: str
    # Rows of the embedding, see `padded_vocab_size`.
    vocab_size: int
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    unk_id: int | None
    # Ids that are never masked and never used as random replacements: specials, [unused*] and gaps; sorted.
    special_ids: tuple[int, ...]
    # Highest id + 1.
    num_ids: int


def load_tokenizer_info(path: str | Path) -> TokenizerInfo:
    """Load the ids and the fingerprint of a tokenizer.

    The names of [CLS], [SEP], [PAD], [MASK] and [UNK] are those of tokenizer_config.json if it has any.

    Args:
        path: tokenizer.json, or the folder that holds it.

    Returns:
        The facts about the tokenizer.

    Raises:
        ValueError: The file does not exist or is not a tokenizer, or a token for CLS, SEP, PAD or MASK is missing.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(
            f"tokenizer: {file} does not exist; name a folder with tokenizer.json or such a file"
        )
    if file.name != "tokenizer.json":
        raise ValueError(
            f"tokenizer: {file} must be named tokenizer.json, the name by which other programs find it"
        )
    config_file = file.parent / "tokenizer_config.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        fingerprint = tokenizer_fingerprint(file)
    except Exception as error:  # tokenizers raises bare Exception for whatever it cannot parse
        raise ValueError(f"tokenizer: {file} cannot be read as a tokenizer ({error})") from error
    ids = tokenizer.get_vocab(with_added_tokens=True)
    named = {
        role: ids[name]
        for role in ("cls", "sep", "pad", "mask", "unk")
        if (name := _name(config, role)) in ids
    }
    missing = [role for role in ("cls", "sep", "pad", "mask") if role not in named]
    if missing:
        raise ValueError(
            f"tokenizer: {file} has no token for {', '.join(missing)}; name them in tokenizer_config.json "
            f'(as "{missing[0]}_token") or train a tokenizer with `python -m data_prep tokenizer`'
        )
    num_ids = max(ids.values()) + 1
    special = set(named.values())
    special |= {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    special |= {token_id for token, token_id in ids.items() if _UNUSED.fullmatch(token)}
    special |= set(range(num_ids)) - set(ids.values())
    return TokenizerInfo(
        path=file.parent,
        fingerprint=fingerprint,
        vocab_size=padded_vocab_size(num_ids),
        cls_id=named["cls"],
        sep_id=named["sep"],
        pad_id=named["pad"],
        mask_id=named["mask"],
        unk_id=named.get("unk"),
        special_ids=tuple(sorted(special)),
        num_ids=num_ids,
    )


def _name(config: dict[str, Any], role: str) -> str:
    token = config.get(f"{role}_token") or f"[{role.upper()}]"
    return token["content"] if isinstance(token, dict) else token


def tokenizer_fingerprint(tokenizer_json: Path) -> str:
    """Return the sha256 of tokenizer.json as canonical JSON, without the parts that do not affect content ids."""
    content = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in _WITHOUT_INFLUENCE}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy tokenizer.json and, if there is one, tokenizer_config.json from one folder to another, unchanged."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)


def cls_sep_template(tokenizer: Tokenizer, cls_token: str, sep_token: str) -> TemplateProcessing:
    """Return the post-processor that encodes a text as [CLS] text [SEP], and a pair as [CLS] a [SEP] b [SEP]."""
    return TemplateProcessing(
        single=[cls_token, "$A", sep_token],
        pair=[cls_token, "$A", sep_token, "$B:1", f"{sep_token}:1"],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls_token, sep_token)],
    )
