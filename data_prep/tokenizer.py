"""Trains a tokenizer like ModernBERT's (NFC, byte-level BPE, [CLS] and [SEP] around a text), or adapts another one."""

import json
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from data_prep.inputs.long_text import Text, pieces_of
from data_prep.tokenize.encoding import BatchEncoder
from modernbert_train.common.files import write_atomically
from modernbert_train.common.text import one_line
from modernbert_train.store.lost_text import TextCounts
from modernbert_train.store.tokenizer import (
    OTHER_FORMS,
    TokenizerInfo,
    cls_sep_template,
    copy_tokenizer,
    find_roles,
    named_roles,
    open_tokenizer_json,
    read_tokenizer_config,
    tokenizer_errors,
)
from modernbert_train.store.vocabulary import VOCAB_MULTIPLE

SPECIAL_TOKENS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
NUM_BYTES = 256
MODEL_MAX_LENGTH = 8_192  # the longest context of the recipes
PIECE_CHARACTERS = 100_000  # a longer text is counted piece by piece in training
HOLD_BACK_EVERY = 100  # of the pieces; training does not read these
HELD_BACK_CHARACTERS = 1_000_000
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
        special_tokens=_added_tokens(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise ValueError("input: no document to train on; check the files")
    tokenizer.train_from_iterator(chain([first], texts), trainer)
    _surround(tokenizer, SPECIAL_TOKENS)
    return tokenizer


class HeldBackText:
    """Some of the text to train on, to measure the tokenizer with."""

    def __init__(self) -> None:
        self._held_back: list[str] = []
        self._first: list[str] = []  # measured instead if the text is too short to hold any back
        self._num_characters = 0

    def pass_on(self, texts: Iterable[Text]) -> Iterator[str]:
        """Yield the texts in pieces that end at white space, apart from those that are held back."""
        for number, piece in enumerate(chain.from_iterable(map(_pieces_of_words, texts)), 1):
            if number % HOLD_BACK_EVERY == 0 and self._num_characters < HELD_BACK_CHARACTERS:
                self._held_back.append(piece)
                self._num_characters += len(piece)
                continue
            if number < HOLD_BACK_EVERY and not self._held_back:
                self._first.append(piece)
            yield piece

    def measure(self, folder: Path) -> str:
        """Describe what the tokenizer in a folder makes of the text that was held back."""
        chosen = self._held_back or self._first
        counts = measure_texts(folder, chosen)
        which = "text that was held back" if self._held_back else "the text it was trained on"
        return f"of {counts.characters:,} characters of {which}: {counts.describe()}"


def _pieces_of_words(text: Text) -> Iterator[str]:
    """Cut a text before white space into pieces of at most PIECE_CHARACTERS."""
    rest = ""
    for piece in pieces_of(text):
        piece, first = rest + piece, 0
        while len(piece) - first > PIECE_CHARACTERS:
            last = first + PIECE_CHARACTERS
            cut = max(piece.rfind(" ", first + 1, last), piece.rfind("\n", first + 1, last))
            cut = last if cut < 0 else cut
            yield piece[first:cut]
            first = cut
        rest = piece[first:]
    if rest:
        yield rest


def measure_texts(folder: Path, texts: Iterable[str]) -> TextCounts:
    """Count what the tokenizer in a folder makes of some texts."""
    encoder = BatchEncoder(folder / "tokenizer.json", "uint32", valid_fraction=0)
    meter = encoder.new_meter()
    for text in texts:
        encoder.measure(text, meter)
    return meter.counts


def fit_tokenizer(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Give a tokenizer the special tokens that it lacks; all its ids are kept.

    The tokens that its files name, or that it has under a usual name (<s>, </s>, <pad>, <mask>), are used. Missing
    tokens of [UNK], [CLS], [SEP], [PAD] and [MASK] get the ids after the last one, followed by [unused0], [unused1]
    and so on up to a multiple of 64, as in ModernBERT's own tokenizer.

    Args:
        path: tokenizer.json or its folder, or one of another form (OTHER_FORMS), which is converted.

    Returns:
        The extended tokenizer, and role -> special token.

    Raises:
        ValueError: The file is not a tokenizer, or its ids have gaps, which new tokens would fill.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    folder = file.parent
    other = _other_form(path)
    tokenizer = open_tokenizer_json(file, "fit") if other is None else _convert(other)
    vocabulary = tokenizer.get_vocab()
    ids = vocabulary.values()
    if len(set(ids)) != max(ids, default=-1) + 1:
        raise ValueError(
            f"fit: {file} has {len(set(ids)):,} ids up to {max(ids):,}; fill the gaps with added tokens first"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    roles = SPECIAL_TOKENS | named_roles(folder) | find_roles(folder, vocabulary)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    tokenizer.add_special_tokens(_added_tokens({r: t for r, t in roles.items() if t not in special}))
    unused = (f"[unused{number}]" for number in count())
    while tokenizer.get_vocab_size() % VOCAB_MULTIPLE:
        tokenizer.add_tokens([AddedToken(next(unused))])
    _surround(tokenizer, roles)
    return tokenizer, roles


def _other_form(path: Path) -> Path | None:
    """Return the file of a tokenizer that is not a tokenizer.json."""
    if not path.is_dir():
        return path if any(path.match(form) for form in OTHER_FORMS) else None
    if (path / "tokenizer.json").is_file():
        return None
    return next((found for form in OTHER_FORMS for found in sorted(path.glob(form))), None)


def _convert(file: Path) -> Tokenizer:
    """Make a tokenizer of vocab.txt (BERT), vocab.json and merges.txt (GPT-2, RoBERTa) or a SentencePiece model."""
    config = read_tokenizer_config(file.parent)
    if file.suffix == ".model":
        return _convert_sentencepiece(file)
    with tokenizer_errors(f"fit: {file} cannot be converted"):
        if file.suffix == ".txt":
            words = file.read_text(encoding="utf-8").splitlines()
            plain = (word for word in words if not word.startswith("["))
            lowercase = bool(config.get("do_lower_case", all(word == word.lower() for word in plain)))
            converted: Any = BertWordPieceTokenizer(
                {word: number for number, word in enumerate(words)},
                lowercase=lowercase,
                strip_accents=config.get("strip_accents"),
                handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
            )
        else:
            merges = file.with_name("merges.txt")
            add_prefix_space = bool(config.get("add_prefix_space", False))
            converted = ByteLevelBPETokenizer.from_file(
                str(file), str(merges), add_prefix_space=add_prefix_space
            )
        return Tokenizer.from_str(converted.to_str())


def _convert_sentencepiece(file: Path) -> Tokenizer:
    if find_spec("sentencepiece") is None:
        raise ValueError(
            f"fit: {file} is a SentencePiece model, which another library has to read; install it with "
            "`pip install sentencepiece` and run the same command again"
        )
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        return AutoTokenizer.from_pretrained(file.parent).backend_tokenizer
    except Exception as error:  # no common type
        raise ValueError(
            f"fit: {file} cannot be converted ({one_line(error)}); put config.json and tokenizer_config.json of its "
            "model beside it, which name its class"
        ) from error


def lost_text(folder: Path) -> str | None:
    """Look for a text of which the tokenizer in a folder loses characters; describe it."""
    for text in _PROBES:
        counts = measure_texts(folder, [text])
        if counts.lost_characters or counts.unknown_tokens:
            return (
                f"{counts.lost_characters} of the {counts.normalized_characters} characters of {text!r} are lost, "
                f"{counts.unknown_tokens} of its {counts.tokens} tokens are [UNK]"
            )
    return None


def _added_tokens(special_tokens: dict[str, str]) -> list[AddedToken]:
    # lstrip: the space before a masked word belongs to the word, so " [MASK]" is one token
    return [
        AddedToken(token, special=True, normalized=False, lstrip=role == "mask")
        for role, token in special_tokens.items()
    ]


def _surround(tokenizer: Tokenizer, special_tokens: dict[str, str]) -> None:
    """Add [CLS] and [SEP] to texts that are encoded with special tokens."""
    tokenizer.post_processor = cls_sep_template(tokenizer, special_tokens["cls"], special_tokens["sep"])


def save_tokenizer(
    tokenizer: Tokenizer, folder: Path, special_tokens: dict[str, str] = SPECIAL_TOKENS
) -> None:
    """Write tokenizer.json and tokenizer_config.json in the form that transformers.AutoTokenizer loads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_config(folder, special_tokens)
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
    """Copy the files of a tokenizer into a store, whose tokenizer_config.json then names all special tokens."""
    copy_tokenizer(info.path, folder)
    roles = find_roles(info.path, open_tokenizer_json(info.path / "tokenizer.json").get_vocab())
    config = read_tokenizer_config(folder)
    if not config:
        write_tokenizer_config(folder, roles)
    elif not all(config.get(f"{role}_token") for role in roles):
        config = {f"{role}_token": token for role, token in roles.items()} | config
        write_atomically(
            folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        )
