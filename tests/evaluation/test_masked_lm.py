import dataclasses
import json
import math
import re
from contextlib import closing
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.config import (
    DataConfig,
    EvaluationConfig,
    MixtureConfig,
    ModelConfig,
    PhaseConfig,
    Recipe,
    SourceConfig,
    dump_recipe,
)
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.evaluation.command import EvaluateOptions, evaluate
from modernbert_train.evaluation.masked_lm import SourceScore, evaluate_masked_lm
from modernbert_train.evaluation.scorers import padded_batches
from modernbert_train.evaluation.tables import format_scores
from modernbert_train.evaluation.unigram import UnigramScore, count_tokens
from modernbert_train.objectives import IGNORE_INDEX
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info
from modernbert_train.store.reading import BlockReader
from tests.helpers.exported import random_weights
from tests.helpers.stores import make_store, make_tokenizer, random_documents
from tests.helpers.weights import make_info

MODEL = ModelConfig(
    vocab_size=256,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    local_attention=16,
)


def make_tokenizer_with_template(folder: Path) -> TokenizerInfo:
    """The tests' tokenizer with the template that an export would otherwise add to it."""
    make_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer_info(folder)


def recipe_for(store: Path, *sources: str) -> Recipe:
    """A recipe with one phase of 128 tokens context that reads these sources of a store."""
    return Recipe(
        name="toy",
        data=DataConfig(
            tokenizer="tokenizer",
            sources={source: SourceConfig(str(store)) for source in sources},
            num_streams=1,
            num_workers=0,
        ),
        phases={
            "extend": PhaseConfig(
                tokens=5_120,
                batch_tokens=512,
                context_tokens=128,
                row_tokens=512,
                micro_batch_tokens=512,
                learning_rate=1e-3,
                mixture=MixtureConfig({source: 1 / len(sources) for source in sources}),
            )
        },
        model=MODEL,
        evaluation=EvaluationConfig(mask_rate=0.15, max_rows=4),
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two sources with held-out text, and one without."""
    sources = {
        "web": {"train": random_documents(40, seed=1), "valid": random_documents(20, seed=2)},
        "code": {"train": random_documents(40, seed=3), "valid": random_documents(20, seed=4)},
        "tiny": {"train": random_documents(5, seed=5)},
    }
    make_store(tmp_path / "store", make_tokenizer_with_template(tmp_path / "tokenizer"), sources)
    return recipe_for(tmp_path / "store", *sources)


def write_run(run: Path, recipe: Recipe, state_dict: dict[str, torch.Tensor]) -> Path:
    tokenizer = make_tokenizer_with_template(run)
    info = make_info(
        step=10, tokens=5_120, context_tokens=128, model=MODEL, tokenizer_fingerprint=tokenizer.fingerprint
    )
    save_weights(run, state_dict, info)
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    return run


def test_a_model_that_knows_token_frequencies_alone_scores_as_the_baseline(tmp_path: Path) -> None:
    tokenizer = make_tokenizer_with_template(tmp_path / "tokenizer")
    documents = {"train": [[5] * 90 + [6] * 10], "valid": [[5] * 60 + [6] * 40]}
    store = make_store(tmp_path / "store", tokenizer, {"web": documents})
    train = store.sources["web"]["train"]
    with closing(BlockReader([train])) as reader:
        counts = count_tokens("web", train, reader, tokenizer.num_ids, progress_bar=False)
    # With every other weight 0 the logits are the decoder's bias: here the logarithms of the probabilities.
    state_dict = {name: torch.zeros_like(weight) for name, weight in random_weights(MODEL).items()}
    state_dict["decoder.bias"] = torch.from_numpy(np.log((counts + 1) / (counts.sum() + 256))).float()
    recipe = recipe_for(store.path, "web")
    run = write_run(tmp_path / "run", recipe, state_dict)

    (score,) = evaluate_masked_lm(run, progress_bar=False, device="cpu")

    assert score.num_tokens == 102
    assert score.num_targets == 15
    assert score.loss == pytest.approx(score.unigram.loss, rel=1e-6)
    assert score.accuracy == score.unigram.accuracy
    assert score.gain == pytest.approx(0, abs=1e-5)
    assert score.accuracy_ratio == 1
    # Of the 15 masked tokens some number n is 5 and the rest is 6: 91/356 and 11/356 are their probabilities.
    n = round(score.accuracy * 15)
    assert 0 < n < 15
    assert score.unigram.loss == pytest.approx((n * math.log(356 / 91) + (15 - n) * math.log(356 / 11)) / 15)


def test_a_run_its_checkpoint_and_its_export_score_the_same(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", recipe, random_weights(MODEL))
    exported = export_checkpoint(run, tmp_path / "out")

    of_run = evaluate_masked_lm(run, progress_bar=False, device="cpu")
    of_checkpoint = evaluate_masked_lm(
        run / "checkpoints" / "step-00000010.pt", progress_bar=False, device="cpu"
    )
    of_export = evaluate_masked_lm(exported, recipe, progress_bar=False, device="cpu")

    assert of_run == [dataclasses.replace(score, model=str(run)) for score in of_checkpoint]
    assert [score.source for score in of_run] == ["web", "code"]
    assert "tiny has no held-out text in its store and is skipped" in caplog.text
    for ours, theirs in zip(of_run, of_export, strict=True):
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-5)
        assert theirs.loss_error == pytest.approx(ours.loss_error, rel=1e-5)
        same = {"loss": ours.loss, "loss_error": ours.loss_error, "model": ours.model}
        assert dataclasses.replace(theirs, **same) == ours
        assert ours.num_tokens > 1_000
        assert ours.num_targets == pytest.approx(0.15 * ours.num_tokens, rel=0.1)


def test_evaluate_makes_the_table(tmp_path: Path, recipe: Recipe) -> None:
    run = write_run(tmp_path / "run", recipe, random_weights(MODEL))
    table = evaluate([run])
    assert table == format_scores(evaluate_masked_lm(run))
    (run / "evaluation.json").rename(tmp_path / "written.json")
    assert table == evaluate([run], EvaluateOptions(recipe=str(run / "recipe.yaml")))
    assert not (run / "evaluation.json").exists(), "another recipe may have other text"

    written = (tmp_path / "written.json").read_text()
    (run / "evaluation.json").write_text(written)
    card = (export_checkpoint(run, tmp_path / "out") / "README.md").read_text()
    web = json.loads(written)["eval"]["web"]
    assert (
        "| source | loss (nats) | standard error | unigram loss | below unigram | accuracy | baseline accuracy |"
        in card
    )
    gain = web["unigram_loss"] - web["loss"]
    assert (
        f"| web | {web['loss']:.3f} | {web['loss_error']:.3f} | {web['unigram_loss']:.3f} | {gain:+.3f} | "
        f"{web['accuracy']:.1%} |" in card
    )
    (run / "evaluation.json").write_text(written.replace('"sha256": "', '"sha256": "of other weights '))
    assert "unigram" not in (export_checkpoint(run, tmp_path / "again") / "README.md").read_text()


def test_padded_batches_hold_every_masked_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modernbert_train.evaluation.scorers.PADDED_TOKENS", 6)
    batch = {
        "input_ids": torch.tensor([1, 9, 2, 1, 7, 8, 2, 1, 2, 1, 6, 2, 3, 3]),
        "cu_seqlens": torch.tensor([0, 3, 7, 9, 12, 14], dtype=torch.int32),
        "target_positions": torch.tensor([1, 5, 10, 0]),
        "labels": torch.tensor([19, 18, 16, IGNORE_INDEX]),
    }
    found = [[tensor.tolist() for tensor in padded] for padded in padded_batches(batch)]  # type: ignore[arg-type]
    none = IGNORE_INDEX
    assert found == [
        [[[1, 9, 2], [1, 6, 2]], [[1, 1, 1], [1, 1, 1]], [[none, 0, none], [none, 2, none]]],
        [[[1, 7, 8, 2]], [[1, 1, 1, 1]], [[none, none, 1, none]]],
    ]


def test_table() -> None:
    scores = [
        SourceScore(
            "web", 1_000_000, 150_000, 3.0, 0.4, UnigramScore(7.25, 0.05), 4_000,
            loss_error=0.0125, accuracy_error=0.0031,
        ),
        SourceScore("code", 2_000, 300, 2.0, 0.5, UnigramScore(6.5, 0.0), 4_000),
    ]  # fmt: skip
    assert [re.split(" {2,}", line) for line in format_scores(scores).splitlines()] == [
        ["source", "tokens", "masked", "loss", "unigram loss", "gain (nats)", "perplexity", "accuracy",
         "baseline accuracy", "x baseline"],
        [ANY] * 10,
        ["web", "1,000,000", "150,000", "3.000 ± 0.013", "7.250", "4.250", "20.1", "40.0% ± 0.3", "5.0%", "8.0"],
        ["code", "2,000", "300", "2.000", "6.500", "4.500", "7.4", "50.0%", "0.0%", "inf"],
        [""],
        ["unigram loss, baseline accuracy: those of a model that only knows how frequent tokens are; "
         "x baseline: accuracy / baseline accuracy; ±: standard error over documents"],
    ]  # fmt: skip
    twice = [dataclasses.replace(score, model=model) for model in ("a", "b") for score in scores]
    rows = [re.split(" {2,}", line)[:2] for line in format_scores(twice).splitlines()]
    assert rows[0] == ["source", "model"]
    assert rows[2:6] == [["web", "a"], ["web", "b"], ["code", "a"], ["code", "b"]]
    worse = [dataclasses.replace(score, loss=7.3) for score in scores]
    assert "\nweb, code: worse than the unigram baseline" in format_scores(worse)
    assert "\ncode: worse than the unigram baseline" in format_scores([scores[0], worse[1]])
    guessed = [scores[0], dataclasses.replace(scores[1], loss=8.3)]  # ln(4,000) is 8.294
    assert "\ncode: as bad as guessing among all tokens: these weights look untrained" in format_scores(
        guessed
    )


def test_models_and_recipes_that_cannot_be_evaluated(tmp_path: Path, recipe: Recipe) -> None:
    run = write_run(tmp_path / "run", recipe, random_weights(MODEL))
    exported = export_checkpoint(run, tmp_path / "out")
    with pytest.raises(ValueError, match=r"out: no recipe\.yaml in it, so .* is unknown; name one"):
        evaluate_masked_lm(exported)
    with pytest.raises(ValueError, match="no such run folder, checkpoint or model"):
        evaluate_masked_lm(tmp_path / "typo", recipe)

    def with_sources(**sources: SourceConfig) -> Recipe:
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, sources=sources))

    store = recipe.data.sources["web"].store
    with pytest.raises(
        ValueError,
        match=r'data\.sources\.web: .*store has no source "wbe" .* it has web, code, tiny; did you',
    ):
        evaluate_masked_lm(run, with_sources(web=SourceConfig(store, "wbe")))
    with pytest.raises(
        ValueError, match=r"run: no source of toy has held-out text; tokenize with --valid-fraction above 0"
    ):
        evaluate_masked_lm(run, with_sources(tiny=SourceConfig(store)))
    other = make_tokenizer(tmp_path / "other", num_words=100)
    make_store(tmp_path / "other_store", other, {"web": {"train": [[5]], "valid": [[5]]}})
    with pytest.raises(
        ValueError, match=r"is .*/run \(.*, but the store .*other_store was made with another tokenizer"
    ):
        evaluate_masked_lm(run, with_sources(web=SourceConfig(str(tmp_path / "other_store"))))


def test_no_masked_token_at_all(tmp_path: Path, recipe: Recipe) -> None:
    run = write_run(tmp_path / "run", recipe, random_weights(MODEL))
    nothing = dataclasses.replace(recipe, evaluation=EvaluationConfig(mask_rate=0.0, max_rows=4))
    with pytest.raises(
        ValueError, match="web, code: no token of the held-out text was chosen for prediction; raise"
    ):
        evaluate_masked_lm(run, nothing, progress_bar=False)
