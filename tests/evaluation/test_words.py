"""Bits per byte of whole words, which compare models of different tokenizers."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from modernbert_train.config import ModelConfig
from modernbert_train.evaluation.held_out import load_encoder
from modernbert_train.evaluation.models import EvaluatedModel, open_model
from modernbert_train.evaluation.scorers import our_scorer
from modernbert_train.evaluation.tables import format_words, word_numbers
from modernbert_train.evaluation.words import (
    DOCUMENT_CHARACTERS,
    MaskedDocument,
    choose_words,
    mask_words,
    score_documents,
    score_words,
)
from modernbert_train.store.manifest import load_tokenizer_info
from tests.helpers import hub
from tests.helpers.exported import random_weights, write_checkpoint_of
from tests.helpers.stores import make_tokenizer
from tests.helpers.weights import make_info

TEXTS = [
    "Zoë paid  3.50€ for café au lait;\n\tthen she left. [MASK] is no mask, and e-mail no word.",
    "The cat sat on the mat, the Cat sat on the hat. " * 12,
    "def add(a, b):\n    return a + b  # naïve, 漢字 and 🤖\n" * 6,
    "x",
    " \n ",
]


@pytest.fixture(scope="module")
def of_three_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[EvaluatedModel]:
    """A run of ours with bytes as tokens, a BERT with lower-case WordPieces, and a RoBERTa with BPE of bytes."""
    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        local_attention=16,
    )  # fmt: skip
    write_checkpoint_of(folder / "ours", random_weights(config), config, context_tokens=128)
    for kind in ("bert", "roberta"):
        hub.write_published(folder / kind, hub.published_model(kind))
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    pieces.train_from_iterator(
        ["the cat sat on the mat then she left hat return add def"],
        trainers.WordPieceTrainer(vocab_size=80, special_tokens=specials, show_progress=False),
    )
    pieces.save(str(folder / "bert/tokenizer.json"))
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=280, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], initial_alphabet=alphabet,
            show_progress=False,
        ),
    )  # fmt: skip
    pairs.save(str(folder / "roberta/tokenizer.json"))
    for kind in ("bert", "roberta"):
        (folder / kind / "tokenizer_config.json").write_text("{}")
    return [open_model(folder / name) for name in ("ours", "bert", "roberta")]


def test_all_models_are_asked_for_the_same_words(of_three_tokenizers: list[EvaluatedModel]) -> None:
    encoders = [load_encoder(model.tokenizer) for model in of_three_tokenizers]
    words = mask_words("web", TEXTS, of_three_tokenizers, encoders, context_tokens=400)
    assert words.num_left_out > 0  # [UNK] of the BERT
    spelled = []
    for encoder, documents in zip(encoders, words.documents, strict=True):
        assert len(documents) == len(TEXTS)
        assert all(len(document.ids) <= 400 for document in documents)
        spelled.append(
            [
                encoder.decode(document.ids[word].tolist(), skip_special_tokens=False)
                for document in documents
                for word in document.words
            ]
        )
    ours, bert, roberta = ([word.strip() for word in of_model] for of_model in spelled)
    assert ours == roberta
    assert [word.lower() for word in ours] == [word.replace("##", "").replace(" ", "") for word in bert]
    assert words.num_bytes.tolist() == [len(word.encode()) for word in ours]
    assert len(ours) > 10
    # Other models beside them change which words are left out, not which ones are chosen.
    alone = mask_words("web", TEXTS, of_three_tokenizers[:1], encoders[:1], context_tokens=400)
    assert alone.num_left_out == 0
    assert len(alone.num_bytes) >= len(ours) + words.num_left_out


def test_which_words_are_chosen_depends_on_their_numbers_alone() -> None:
    text = "one two " * 4_000
    chosen = choose_words(3, text)
    assert len(chosen) / 8_000 == pytest.approx(0.15, abs=0.01)
    assert choose_words(3, text[: len(text) // 2]) == [span for span in chosen if span[1] < len(text) // 2]
    assert chosen != choose_words(4, text)
    assert all(text[slice(*span)] in ("one", "two") for span in chosen)


def test_a_table_of_three_tokenizers(of_three_tokenizers: list[EvaluatedModel]) -> None:
    texts = {"web": TEXTS[:3], "code": [TEXTS[2], TEXTS[1]]}
    scores = score_words(of_three_tokenizers, texts, context_tokens=80, device="cpu", progress_bar=False)
    assert [score.source for score in scores] == ["web"] * 3 + ["code"] * 3
    assert len({(s.source, s.num_words, s.num_bytes, s.num_left_out) for s in scores}) == 2
    ours, bert, roberta = scores[:3]
    assert ours.num_pieces > roberta.num_pieces > 0
    assert ours.uniform_bits_per_byte > 8  # 261 ids for a byte, and the space before a word
    assert all(score.bits_per_byte.value > 1 for score in scores)
    assert [score.lower_cases for score in scores[:3]] == [False, True, False]
    table = format_words(scores)
    assert f"\n{bert.model}: reads text in small letters" in table
    assert len(word_numbers(scores)["words"]) == 6


def test_the_probabilities_of_all_words_of_two_pieces_add_up_to_one(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, num_words=27)  # 32 ids
    config = ModelConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        local_attention=16,
    )  # fmt: skip
    scorer = our_scorer(make_info(model=config), random_weights(config), torch.device("cpu"))
    # The second word is one piece, and must stay hidden while the first word is spelled.
    words = [np.array([2, 3]), np.array([4])]

    def documents(second: int) -> list[MaskedDocument]:
        ids = np.array([tokenizer.cls_id, 9, 0, 0, second, tokenizer.sep_id], dtype=np.int32)
        pairs = np.array([(a, b) for a in range(32) for b in range(32)], dtype=np.int32)
        return [MaskedDocument(np.concatenate([ids[:2], pair, ids[4:]]), words) for pair in pairs]

    nats = score_documents(documents(11), scorer, tokenizer).reshape(32 * 32, 2)
    assert np.exp(-nats[:, 0]).sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(nats[:, 1]) < 1e-5  # it is predicted while all of the first word is masked
    changed = score_documents(documents(12), scorer, tokenizer).reshape(32 * 32, 2)
    np.testing.assert_allclose(changed[:, 0], nats[:, 0], atol=1e-5)
    assert abs(changed[0, 1] - nats[0, 1]) > 1e-3


def test_a_model_that_only_knows_frequencies_scores_its_analytic_value(tmp_path: Path) -> None:
    config = ModelConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        local_attention=16,
    )  # fmt: skip
    probabilities = np.random.default_rng(0).dirichlet(np.ones(320))
    weights = {name: torch.zeros_like(weight) for name, weight in random_weights(config).items()}
    weights["decoder.bias"] = torch.from_numpy(np.log(probabilities)).float()
    write_checkpoint_of(tmp_path / "run", weights, config, context_tokens=1_024)
    model = open_model(tmp_path / "run")
    (score,) = score_words([model], {"web": TEXTS}, context_tokens=1_024, device="cpu", progress_bar=False)
    encoder = load_encoder(load_tokenizer_info(tmp_path / "run"))
    bits = num_bytes = 0.0
    for number, text in enumerate(TEXTS):
        for start, end in choose_words(number, text):
            # A byte is a token, and a space belongs to the word before which it is pretokenized.
            ids = encoder.encode(text[start:end], add_special_tokens=False).ids
            bits -= np.log2(probabilities[ids]).sum()
            num_bytes += len(text[start:end].encode())
    assert score.num_bytes == num_bytes
    assert score.num_left_out == 0
    assert score.bits_per_byte.value == pytest.approx(bits / num_bytes, rel=1e-5)
    assert score.uniform_bits_per_byte == pytest.approx(score.num_pieces * math.log2(261) / num_bytes)


def test_text_that_has_no_word_to_score(of_three_tokenizers: list[EvaluatedModel]) -> None:
    nothing = {"empty": ["\n", "z" * (DOCUMENT_CHARACTERS + 1)]}
    with pytest.raises(
        ValueError, match=r"--text empty: none of its words can be scored \(0 that were chosen"
    ):
        score_words(of_three_tokenizers, nothing, context_tokens=80, device="cpu", progress_bar=False)
    causal = dataclasses.replace(of_three_tokenizers[0], objective="clm")
    with pytest.raises(
        ValueError, match=r"ours was last trained with objective clm, and words are scored by"
    ):
        score_words([causal], {"web": TEXTS}, context_tokens=80, device="cpu", progress_bar=False)
