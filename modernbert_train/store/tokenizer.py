"""What training needs to know of a tokenizer: its special ids, its sizes, its fingerprint."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

VOCAB_MULTIPLE = 64  # embedding rows in multiples of 64 keep the decoder's matrix product on tensor cores

# Parts of tokenizer.json that decide no content id: settings of whoever saved it last, and the template that adds
# [CLS] and [SEP], which the reader of a store does by itself.
_WITHOUT_INFLUENCE = ("truncation", "padding", "post_processor")
_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")


@dataclass(frozen=True)
class TokenizerInfo:
    """Ids of a tokenizer. Every id is below `num_ids`; the model's embedding has `vocab_size` rows."""

    path: Path  # the folder that holds tokenizer.json
    fingerprint: str  # see `tokenizer_fingerprint`
    vocab_size: int  # num_ids rounded up to a multiple of 64
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    unk_id: int | None
    special_ids: tuple[int, ...]  # sorted; never masked, never drawn: specials, [unused*], gaps
    num_ids: int  # highest id + 1: random replacements are drawn below it


def load_tokenizer_info(path: str | Path) -> TokenizerInfo:
    """Read ids and fingerprint of a tokenizer: a folder with tokenizer.json, or such a file.

    The names of [CLS], [SEP], [PAD], [MASK] and [UNK] come from tokenizer_config.json where that names them.
    ValueError: no tokenizer there, a file that is not one, or no CLS, SEP, PAD or MASK token.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(
            f"tokenizer: {file} does not exist; name a folder with tokenizer.json or such a file"
        )
    if file.name != "tokenizer.json":
        raise ValueError(f"tokenizer: {file} must be named tokenizer.json (everything finds it by that name)")
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
        vocab_size=-(-num_ids // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
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
    """sha256 (hex) of tokenizer.json as canonical JSON, so that reformatting does not change it.

    The parts that decide no content id are left out (`_WITHOUT_INFLUENCE`).
    """
    content = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in _WITHOUT_INFLUENCE}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
