"""A text encoded piece by piece has the ids of the text encoded as a whole."""

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenize import long_texts
from data_prep.tokenize.long_texts import encode_long
from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import TRICKY_TEXTS, files_of, run_tokenize, write_json_lines

SPECIALS = ["<unk>", "[CLS]", "[SEP]"]
SPLIT = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def real_ish_text(seed: int, num_characters: int) -> str:
    """Return text with paragraphs, indented code, numbers, scripts without spaces and runs of white space."""
    random = np.random.default_rng(seed)
    prose = (
        "the river is wide and a bridge stands don't (it) 12,345.67 Straße naïve e\u0301te\u0301 x_1 = f(y);"
    )
    words = [
        *prose.split(),
        "река",
        "漢字かな交じり文",
        "नमस्ते",
        "🤖👩‍👩‍👧",
        "\u200b",
        "[CLS]",
        "ﬁne",
        "I'LL",
        "A" * 300,
        "９９",
    ]
    gaps = [" "] * 40 + ["\n", "\n\n", "  ", "\t", " \n    ", ". ", ", ", "\r\n", "\u2028", "\xa0"]
    text, length = [*TRICKY_TEXTS], 0
    while length < num_characters:
        text += [str(random.choice(words)), str(random.choice(gaps))]
        length += len(text[-2]) + len(text[-1])
    return "".join(text)


def byte_level(add_prefix_space=False):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return tokenizer, trainers.BpeTrainer


def regex_split():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    return tokenizer, trainers.BpeTrainer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer


def unigram(scheme):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return tokenizer, lambda **options: trainers.UnigramTrainer(unk_token="<unk>", **options)


def without_pre_tokenizer():
    """Build a tokenizer like Llama's first: spaces are characters of one word, the whole text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer, trainers.BpeTrainer


TOKENIZERS = {
    "byte-level": byte_level,
    "byte-level with a prefix space": lambda: byte_level(add_prefix_space=True),
    "regex": regex_split,
    "WordPiece": word_piece,
    **{
        f"Unigram, {scheme}": lambda scheme=scheme: unigram(scheme) for scheme in ("always", "first", "never")
    },
    "no pre-tokenizer": without_pre_tokenizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS, ids=str)
def tokenizer(request):
    built, trainer = TOKENIZERS[request.param]()
    texts = real_ish_text(1, 30_000).split("\n")
    built.train_from_iterator(texts, trainer(vocab_size=600, special_tokens=SPECIALS, show_progress=False))
    built.encode_special_tokens = True
    return built


@pytest.mark.parametrize("piece", [1_500, 2_001, 7_777])
def test_pieces_give_the_ids_of_the_whole(tokenizer, monkeypatch, piece):
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", piece)
    monkeypatch.setattr(long_texts, "OVERLAP_CHARACTERS", 1_200)
    text = real_ish_text(2, 60_000)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    for given in ([text], [text[first : first + 997] for first in range(0, len(text), 997)]):
        pieces = list(encode_long(tokenizer, given))
        assert len(pieces) > 5
        assert [token for _, ids in pieces for token in ids] == whole
        assert "".join(text for text, _ in pieces) == text
        assert max(len(text) for text, _ in pieces) <= piece


def test_a_long_file_gives_the_store_of_a_document(tokenizer_folder, tmp_path, monkeypatch):
    text = real_ish_text(3, 20_000)
    (tmp_path / "x.txt").write_text(text, encoding="utf-8", newline="")
    stores = {
        "whole": f"web={write_json_lines(tmp_path / 'x.jsonl', [text])}",
        "pieces": f"web={tmp_path / 'x.txt'}",
    }
    for store, given in stores.items():
        options = ("--workers", "1", "--valid-fraction", "0")
        assert run_tokenize(tmp_path / store, tokenizer_folder, given, options=options) == 0
        monkeypatch.setattr("data_prep.inputs.long_text.LONG_CHARACTERS", 1_000)
        monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 2_000)
        monkeypatch.setattr(long_texts, "OVERLAP_CHARACTERS", 1_200)
    whole, pieces = (files_of(tmp_path / store / "web") for store in stores)
    assert whole == pieces
    texts = [load_manifest(tmp_path / store).texts["web"] for store in stores]
    assert texts[0].characters == texts[1].characters == len(text)
    assert texts[0].bytes == texts[1].bytes
