"""The tokenizer that an exported model is published with, and what it demands of the tokenizer of a store.

Training adds [CLS] and [SEP] and places [MASK] by their ids, so it works with a tokenizer.json that defines none of
this. Programs that encode texts for the finished model read it all from tokenizer.json. What is missing there can be
added before a store is tokenized with `data_prep tokenizer --fit`, and is added by export; what cannot be added is
reported by `tokenizer_problems` before the first text is tokenized.
"""

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from modernbert_train.store.tokenizer import (
    TokenizerError,
    TokenizerInfo,
    cls_sep_template,
    open_tokenizer_json,
    read_tokenizer_config,
    tokenizer_errors,
)

# Texts whose ids an exported tokenizer must not change.
PROBE_TEXTS = ("It opens at nine. def add(a, b): return a + b", "  two spaces,\n\ta tab", "één 漢字 🤖")

# Field of tokenizer_config.json -> field of the normalizer of a BERT tokenizer.
_BERT_FIELDS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def published_tokenizer(info: TokenizerInfo) -> dict[str, Any]:
    """Return the content of the tokenizer.json of a model that was trained with this tokenizer.

    The ids of texts are those of training. Special tokens are special added tokens, so that a text with [MASK] gets its
    id; [CLS] and [SEP] surround a text; texts are neither truncated nor padded, and one text always has the same ids.
    """
    content = json.loads((info.path / "tokenizer.json").read_text(encoding="utf-8"))
    content |= {"truncation": None, "padding": None, "added_tokens": content.get("added_tokens", [])}
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None
    processor, content["post_processor"] = content.get("post_processor"), None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    names = special_tokens(tokenizer, info)
    content["added_tokens"] = _with_special_tokens(content["added_tokens"], names)
    if _is_sound(processor) and _adds_cls_and_sep({**content, "post_processor": processor}, info):
        content["post_processor"] = processor
    else:
        template = cls_sep_template(tokenizer, names["cls"][0], names["sep"][0])
        content["post_processor"] = json.loads(template.__getstate__())
    return content


def special_tokens(tokenizer: Tokenizer, info: TokenizerInfo) -> dict[str, tuple[str, int]]:
    """Return role ("cls", "mask", ...) -> (token, id)."""
    ids = {
        "unk": info.unk_id,
        "cls": info.cls_id,
        "sep": info.sep_id,
        "pad": info.pad_id,
        "mask": info.mask_id,
    }
    # `id_to_token` gives the normalized text of an added token.
    added = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()}
    return {role: (added.get(i) or tokenizer.id_to_token(i), i) for role, i in ids.items() if i is not None}


def tokenizer_problems(info: TokenizerInfo, *, is_tokenized: bool = False) -> list[str]:
    """Return why a model trained with this tokenizer could not be used, with what to do about each reason.

    Args:
        info: The tokenizer.
        is_tokenized: Whether a store has been made with it. Its tokenizer.json must then stay as it is, and what
            export adds is not reported.

    Returns:
        One line for each problem.
    """
    tokenizer = open_tokenizer_json(info.path / "tokenizer.json")
    content = json.loads(tokenizer.to_str())  # with every field, also those that the file leaves out
    names = special_tokens(tokenizer, info)
    problems = list(_contradictions(content, read_tokenizer_config(info.path)))
    if not is_tokenized:
        remedy = f"run `python -m data_prep tokenizer OUT --fit {info.path}` and use OUT"
        problems += [f"{problem}; {remedy}" for problem in _missing_parts(content, names)]
    if not problems:
        with tokenizer_errors(f"tokenizer: {info.path} cannot be used"):
            problems += _changed_ids(info)
    return [f"tokenizer: {info.path}: {problem}" for problem in problems]


def check_tokenizer(info: TokenizerInfo, *, is_tokenized: bool = False) -> None:
    """Raise the problems of a tokenizer.

    Args:
        info: The tokenizer.
        is_tokenized: See `tokenizer_problems`.

    Raises:
        ValueError: There are any.
    """
    if problems := tokenizer_problems(info, is_tokenized=is_tokenized):
        raise ValueError("\n".join(problems))


def prefix_space(content: dict[str, Any]) -> bool | None:
    """Return `add_prefix_space` of the pre-tokenizer in a tokenizer.json; None if it has no such field."""
    pre_tokenizer = content.get("pre_tokenizer") or {}
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return next((part["add_prefix_space"] for part in parts if "add_prefix_space" in part), None)


def _with_special_tokens(
    added: list[dict[str, Any]], names: dict[str, tuple[str, int]]
) -> list[dict[str, Any]]:
    """Return the added tokens with a special one for each role, ordered by id."""
    entries = {entry["content"]: entry for entry in added}
    for role, (token, token_id) in names.items():
        if not entries.get(token, {}).get("special"):
            flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
            # The space before a masked word belongs to the word, so " [MASK]" is one token.
            entries[token] = {"id": token_id, "content": token, "lstrip": role == "mask", **flags}
    return sorted(entries.values(), key=lambda entry: entry["id"])


def _is_sound(processor: dict[str, Any] | None) -> bool:
    """Check that a template defines every token it names: `tokenizers` panics in Rust when it applies another one."""
    if processor is None:
        return False
    if processor["type"] == "Sequence":
        return all(map(_is_sound, processor["processors"]))
    if processor["type"] != "TemplateProcessing":
        return True
    pieces = [*processor["single"], *processor["pair"]]
    return {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece} <= set(
        processor["special_tokens"]
    )


def _adds_cls_and_sep(content: dict[str, Any], info: TokenizerInfo) -> bool:
    """Check that a text becomes [CLS] text [SEP], and that a pair gets these two tokens and no others."""
    tokenizer = Tokenizer.from_str(json.dumps(content))
    plain = tokenizer.encode("", add_special_tokens=False).ids
    single, pair = tokenizer.encode("").ids, tokenizer.encode("", "").ids
    return (
        single == [info.cls_id, *plain, info.sep_id]
        and (pair[0], pair[-1]) == (info.cls_id, info.sep_id)
        and set(pair) <= {info.cls_id, info.sep_id, *plain}
    )


def _contradictions(content: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Yield settings of tokenizer_config.json by which `AutoTokenizer` changes what tokenizer.json says."""
    pairs = [("add_prefix_space", prefix_space(content))]
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        pairs += [(field, normalizer.get(theirs)) for field, theirs in _BERT_FIELDS.items()]
    for field, value in pairs:
        said = config.get(field)
        if said is not None and value is not None and said != value:
            yield (
                f"{field} is {json.dumps(said)} in tokenizer_config.json and {json.dumps(value)} in tokenizer.json, "
                "so AutoTokenizer gives other ids than training would; correct the wrong one"
            )


def _missing_parts(content: dict[str, Any], names: dict[str, tuple[str, int]]) -> Iterator[str]:
    added = {entry["content"] for entry in content["added_tokens"] if entry["special"]}
    missing = [token for token, _ in names.values() if token not in added]
    if missing:
        yield (
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} in its vocabulary but not among its special "
            f"added tokens, so AutoTokenizer gives other ids for a text with {missing[-1]}"
        )
    if dropout := content["model"].get("dropout"):
        yield f"model.dropout is {dropout}, so the ids of a text change from one time to the next"


def _changed_ids(info: TokenizerInfo) -> Iterator[str]:
    published = Tokenizer.from_str(json.dumps(published_tokenizer(info)))
    for text in PROBE_TEXTS:
        content = training_ids(info, text)
        if content is None:
            continue
        ids, expected = encoded(published, text), [info.cls_id, *content, info.sep_id]
        if ids != expected:
            yield f"a model would be published with ids {ids} for {text!r}, and trained with {expected}"


def training_ids(info: TokenizerInfo, text: str) -> list[int] | None:
    """Return the ids of a text in a store: special strings are text, nothing is cut or padded.

    Returns:
        The ids without [CLS] and [SEP]; None if the tokenizer cannot encode the text.
    """
    tokenizer = Tokenizer.from_file(str(info.path / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return encoded(tokenizer, text, add_special_tokens=False)


def encoded(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int] | None:
    """Return the ids of a text; None if it has a character for which the tokenizer has no token."""
    try:
        with tokenizer_errors("cannot encode"):
            return tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    except TokenizerError:
        return None
