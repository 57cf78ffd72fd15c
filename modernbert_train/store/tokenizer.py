"""Facts about a tokenizer that training needs: its special ids, sizes and fingerprint."""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from modernbert_train.common.text import one_line
from modernbert_train.store.vocabulary import padded_vocab_size

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# Older folders name their special tokens here.
SPECIAL_TOKENS_MAP = "special_tokens_map.json"

ROLES = ("cls", "sep", "pad", "mask", "unk")
_REQUIRED = ("cls", "sep", "pad", "mask")
# The names that tokenizers use where no file states any: those of BERT and ModernBERT, of RoBERTa and XLM-R, of ESM.
_FAMILIES: tuple[dict[str, str], ...] = (
    {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"},
    {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unk": "<unk>"},
    {"cls": "<cls>", "sep": "<eos>", "pad": "<pad>", "mask": "<mask>", "unk": "<unk>"},
)
# Files of tokenizers of another form, which `data_prep tokenizer --fit` converts.
OTHER_FORMS = ("vocab.txt", "vocab.json", "*.model")

# Parts of tokenizer.json that do not affect content ids: settings of the program that saved it last, and the template
# that adds [CLS] and [SEP], which are added when a store is read.
_WITHOUT_INFLUENCE = ("truncation", "padding", "post_processor")
_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")
# An id may be this far beyond the number of tokens: gaps are embedding rows that nothing uses.
_MAX_GAPS = 1_000_000


class TokenizerError(ValueError):
    """The tokenizers library failed."""


@contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a TokenizerError of one line.

    It raises bare Exception for most errors, and a panic of Rust arrives as a BaseException.

    Args:
        what: start of the message.

    Yields:
        Nothing.

    Raises:
        TokenizerError: The library failed.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
            raise
        raise TokenizerError(f"{what} ({one_line(error)})") from error


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
    # Of the token that the model gives for unknown text; None if it has none.
    unk_id: int | None
    # Ids that are never masked and never used as random replacements: specials, [unused*] and gaps; sorted.
    special_ids: tuple[int, ...]
    # Highest id + 1.
    num_ids: int


def load_tokenizer_info(path: str | Path) -> TokenizerInfo:
    """Load the ids and the fingerprint of a tokenizer.

    The names of [CLS], [SEP], [PAD], [MASK] and [UNK] are those of tokenizer_config.json or special_tokens_map.json;
    where these name none, those that BERT, RoBERTa or ESM use.

    Args:
        path: tokenizer.json, or the folder that holds it.

    Returns:
        The facts about the tokenizer.

    Raises:
        ValueError: The file does not exist or is not a tokenizer; a token for CLS, SEP, PAD or MASK is missing, is an
            ordinary word, or has two roles.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(_missing(file))
    if file.name != "tokenizer.json":
        raise ValueError(
            f"tokenizer: {file} must be named tokenizer.json, the name by which other programs find it"
        )
    tokenizer = open_tokenizer_json(file)
    try:
        fingerprint = tokenizer_fingerprint(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer: {file} cannot be read as a tokenizer ({one_line(error)})") from error
    ids = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    num_ids = max(ids.values(), default=-1) + 1
    if num_ids > len(ids) + _MAX_GAPS:
        raise ValueError(
            f"tokenizer: {file} has {len(ids):,} tokens and the id {num_ids - 1:,}; number its tokens without such gaps"
        )
    roles = find_roles(file.parent, ids)
    _check_roles(file, roles, {token.content for token in added.values() if token.special})
    named = {role: ids[token] for role, token in roles.items()}
    unk_token = _unk_token(content["model"])
    if unk_token in ids:
        named["unk"] = ids[unk_token]
    special = set(named.values())
    special |= {token_id for token_id, token in added.items() if token.special}
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


def open_tokenizer_json(file: Path, label: str = "tokenizer") -> Tokenizer:
    """Open a tokenizer.json; raise ValueError, which begins with `label`, if it is not one."""
    with tokenizer_errors(f"{label}: {file} cannot be read as a tokenizer"):
        return Tokenizer.from_file(str(file))


def _missing(file: Path) -> str:
    folder = file.parent
    other = next((found for form in OTHER_FORMS for found in sorted(folder.glob(form))), None)
    if file.name == "tokenizer.json" and other is not None:
        return (
            f"tokenizer: {folder} has {other.name} and no tokenizer.json; convert it with "
            f"`python -m data_prep tokenizer NEW_FOLDER --fit {folder}`, and use NEW_FOLDER"
        )
    return f"tokenizer: {file} does not exist; name a folder with tokenizer.json or such a file"


def find_roles(folder: Path, tokens: Collection[str]) -> dict[str, str]:
    """Find the special tokens of a tokenizer.

    Args:
        folder: that may hold tokenizer_config.json and special_tokens_map.json, which name them.
        tokens: of the tokenizer.

    Returns:
        Role ("cls", "sep", "pad", "mask", "unk") -> token, of those that the tokenizer has.

    Raises:
        ValueError: A file cannot be read, or names something that is not a token.
    """
    named = named_roles(folder)
    # Not a single "<s>", which may be a tag of HTML.
    family = next((f for f in _FAMILIES if f["cls"] in tokens and f["sep"] in tokens), _FAMILIES[0])
    roles = {}
    for role in ROLES:
        usual = [family[role]] + [other[role] for other in _FAMILIES if role not in ("cls", "sep")]
        candidates = [named[role]] if role in named else usual
        token = next((token for token in candidates if token in tokens), None)
        if token is not None:
            roles[role] = token
    return roles


def named_roles(folder: Path) -> dict[str, str]:
    """Return the special tokens that tokenizer_config.json or else special_tokens_map.json names, by role."""
    named = {}
    for name in (SPECIAL_TOKENS_MAP, "tokenizer_config.json"):
        content = _read_object(folder / name)
        for role in ROLES:
            token = _token_text(content.get(f"{role}_token"), folder / name, f"{role}_token")
            if token:
                named[role] = token
    return named


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return the content of tokenizer_config.json; empty if there is none."""
    return _read_object(folder / "tokenizer_config.json")


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer: {file} is not valid JSON ({one_line(error)}); repair it") from error
    if not isinstance(content, dict):
        raise ValueError(f"tokenizer: {file} must hold an object, holds {type(content).__name__}; repair it")
    return content


def _token_text(value: Any, file: Path, key: str) -> str | None:
    """Return the text of a token, which is written as a string or as an object with its settings."""
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str | None) or (value is not None and text is None):
        raise ValueError(
            f"tokenizer: {file}: {key} is {json.dumps(value)[:80]}; "
            'it must be a token such as "[X]", or an object with the field content'
        )
    return text


def _check_roles(file: Path, roles: dict[str, str], added: Collection[str]) -> None:
    missing = [role for role in _REQUIRED if role not in roles]
    if missing:
        raise ValueError(
            f"tokenizer: {file} has no token for {', '.join(missing)}; name them in tokenizer_config.json "
            f'(as "{missing[0]}_token") or train a tokenizer with `python -m data_prep tokenizer`, '
            "which also adds them to an existing one (--fit)"
        )
    for role, token in roles.items():
        if token.isalnum() and token not in added:
            raise ValueError(
                f"tokenizer: {file}: {role}_token is {token!r}, which is an ordinary word of texts; name a token that "
                f"no text contains, such as [{role.upper()}], in tokenizer_config.json"
            )
    distinct = (*_REQUIRED, *(role for role in ("unk",) if roles.get(role) == roles["mask"]))
    for number, role in enumerate(distinct):
        for other in distinct[:number]:
            if roles[role] == roles[other]:
                raise ValueError(
                    f"tokenizer: {file}: {other}_token and {role}_token are both {roles[role]!r}; name a token "
                    "of its own for each in tokenizer_config.json"
                )


def _unk_token(model: dict[str, Any]) -> str | None:
    """Return the token that a model gives for unknown text."""
    token = model.get("unk_token")
    if model.get("unk_id") is not None:
        token = model["vocab"][model["unk_id"]][0]
    return token if isinstance(token, str) else None


def tokenizer_fingerprint(tokenizer_json: Path) -> str:
    """Return the sha256 of tokenizer.json as canonical JSON, without the parts that do not affect content ids."""
    content = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in _WITHOUT_INFLUENCE}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer from one folder to another, unchanged."""
    for name in (*TOKENIZER_FILES, SPECIAL_TOKENS_MAP):
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)


def cls_sep_template(tokenizer: Tokenizer, cls_token: str, sep_token: str) -> TemplateProcessing:
    """Return the post-processor that encodes a text as [CLS] text [SEP], and a pair as [CLS] a [SEP] b [SEP]."""
    return TemplateProcessing(
        single=[cls_token, "$A", sep_token],
        pair=[cls_token, "$A", sep_token, "$B:1", f"{sep_token}:1"],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls_token, sep_token)],
    )
