"""Mutated files of tokenizers are opened and encode a text, or give an error of one line."""

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from data_prep.tokenize.encoding import BatchEncoder, check_unseen_characters
from data_prep.tokenizer import fit_tokenizer, measure_texts
from modernbert_train.store.published_tokenizer import tokenizer_problems
from modernbert_train.store.tokenizer import cls_sep_template, load_tokenizer_info

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
TEXTS = ["the river, a b", "한 강\t[MASK] é"]
# what breaks readers of JSON: other types, extreme numbers, names of other components
VALUES: list[Any] = [
    None, True, "", "a", "[MASK]", "ByteLevel", "(", "(a*)*b", "$A", "▁", 0, 1, -1, 1.5, 1e308, 2**31, 2**32, 2**63,
    2**64, [], [None], {}, {"": 1}, {"type": "ByteLevel"}, {"type": "Sequence", "normalizers": []}, {"String": ""},
    {"Regex": "(x+x+)+y"}, "\ud800", "\x00", [["a", -1.0]], {"content": "[MASK]"},
]  # fmt: skip


def _tokenizers() -> dict[str, Any]:
    words = [*SPECIALS, *"the river", "##r", "▁"]
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    byte_level = Tokenizer(
        models.BPE({b: n for n, b in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    byte_level.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("x", "y")])
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel()
    byte_level.decoder = decoders.ByteLevel()
    word_piece = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    word_piece.normalizer = normalizers.BertNormalizer()
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.decoder = decoders.WordPiece()
    word_piece.enable_truncation(8)
    word_piece.enable_padding(length=8)
    unigram = Tokenizer(models.Unigram([(word, -1.0) for word in ids], 0))
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    built = {"byte-level": byte_level, "WordPiece": word_piece, "Unigram": unigram}
    for tokenizer in built.values():
        tokenizer.add_special_tokens(SPECIALS)
        tokenizer.post_processor = cls_sep_template(tokenizer, "[CLS]", "[SEP]")
    return {name: json.loads(tokenizer.to_str()) for name, tokenizer in built.items()}


CONTENTS = _tokenizers()
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": 512,
    "mask_token": {"content": "[MASK]", "lstrip": True},
    **{f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad")},
}
SPECIAL_TOKENS_MAP = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "mask_token": "[MASK]"}


def _mutate(content: Any, choose: random.Random, num_edits: int) -> Any:
    """Replace, delete, double or swap nodes of a tree."""
    content = copy.deepcopy(content)
    for _ in range(num_edits):
        node = content
        while isinstance(node, (dict, list)) and node:
            key = choose.choice(list(node) if isinstance(node, dict) else range(len(node)))
            child = node[key]
            if not isinstance(child, (dict, list)) or not child or choose.random() < 0.2:
                action = choose.random()
                if action < 0.6:
                    node[key] = copy.deepcopy(choose.choice(VALUES))
                elif action < 0.8:
                    del node[key]
                elif isinstance(node, list):
                    node.append(copy.deepcopy(child))
                else:
                    node[str(choose.choice(["a", key, "type", "[MASK]"]))] = copy.deepcopy(child)
                break
            node = child
    return content


def _write(path: Path, content: Any, damage: int | None) -> None:
    data = json.dumps(content).encode("utf-8")
    path.write_bytes(data if damage is None else data[: damage % len(data)] + data[damage % len(data) + 1 :])


def _use(folder: Path, is_fitted: bool) -> None:
    """Do what the commands do with the tokenizer of a user."""
    info = load_tokenizer_info(folder)
    check_unseen_characters(folder / "tokenizer.json", skips=True)
    tokenizer_problems(info)
    measure_texts(folder, TEXTS)
    BatchEncoder(folder / "tokenizer.json", "uint32", 0.0)
    if is_fitted:
        fit_tokenizer(folder)


@pytest.mark.parametrize(
    "num_examples", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3_000)])]
)
def test_mutated_files(tmp_path, capfd, num_examples):
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        name=st.sampled_from(sorted(CONTENTS)),
        seed=st.integers(0, 2**32),
        num_edits=st.tuples(*[st.integers(0, 2)] * 3).filter(any),
        damage=st.none() | st.none() | st.none() | st.integers(0, 10_000),
        is_fitted=st.booleans(),
    )
    def check(name, seed, num_edits, damage, is_fitted):
        choose = random.Random(seed)
        files = {"tokenizer.json": CONTENTS[name], "tokenizer_config.json": CONFIG}
        files["special_tokens_map.json"] = SPECIAL_TOKENS_MAP
        damaged = choose.choice(list(files))
        for (file, content), number in zip(files.items(), num_edits, strict=True):
            _write(tmp_path / file, _mutate(content, choose, number), damage if file == damaged else None)
        message = ""
        try:
            _use(tmp_path, is_fitted)
        except ValueError as error:
            message = str(error) or "no message\n at all"
        outcomes["errors" if message else "used"] += 1
        assert len(message.splitlines()) <= 1, message

    check()
    with capfd.disabled():
        print(dict(outcomes))
    assert min(outcomes["errors"], outcomes["used"]) > num_examples // 20
