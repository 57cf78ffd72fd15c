"""Fields that follow from others where a recipe leaves them out, or says `auto`."""

from dataclasses import replace

import pytest
import torch
import yaml

from modernbert_train.checkpoints.checkpoint import finish_checkpoint, unfinished_path
from modernbert_train.checkpoints.recipes import load_run_recipe
from modernbert_train.config import ModelConfig, dump_recipe, load_recipe, validate
from modernbert_train.config.filling import choose_row_tokens, choose_streams
from tests.helpers.little_recipe import YAML, write
from tests.helpers.stores import make_tokenizer
from tests.helpers.weights import make_info

PHASE = {"tokens": "1M", "learning_rate": 1e-3, "mixture": {"web": 1}}
SOURCES = {"web": {"store": "store"}}


def load(folder, *phases, overrides=(), **data):
    values = {
        "name": "short",
        "model": {"vocab_size": 128},
        "data": {"tokenizer": "store", "sources": SOURCES, **data},
        "phases": {f"phase{number}": {**PHASE, **phase} for number, phase in enumerate(phases)},
    }
    return load_recipe(write(folder, yaml.safe_dump(values)), list(overrides))


@pytest.mark.parametrize(
    ("context", "batch", "streams", "expected"),
    [
        (1_024, 4_194_304, None, 8_192),
        (1_024, 32_768, None, 4_096),  # 8 rows
        (256, 2_048, None, 256),
        (512, 2_048, None, 512),  # 4 rows: it cannot be 8
        (1_024, 24_000, None, 3_000),
        (100, 131, None, 131),
        (1_024, 512, None, 1_024),  # nothing divides: the error names the ways out
        (256, 32_768, 4, 8_192),  # the streams are stated: any number of rows that they share equally
        (256, 98_304, 24, 4_096),
        (256, 1_000, 3, 256),
        (16_384, 1 << 20, None, 16_384),
        (256, 0, None, 8_192),
    ],
)
def test_the_length_of_rows(context, batch, streams, expected):
    assert choose_row_tokens(context, batch, streams) == expected


@pytest.mark.parametrize(
    ("rows", "nodes", "expected"),
    [
        ([512], 1, 64),
        ([96, 576], 1, 48),
        ([48, 80], 1, 16),
        ([7], 1, 7),
        ([67], 1, 1),
        ([96, 192], 32, 32),  # of 48, 32 nodes would not be a divisor
        ([6], 4, 6),
        ([], 1, 64),
    ],
)
def test_the_number_of_streams(rows, nodes, expected):
    assert choose_streams(rows, nodes) == expected


def test_a_small_run_needs_no_sizes(tmp_path):
    ramp = {"start_tokens": 1_024, "tokens": 100_000}
    recipe = load(
        tmp_path, {"batch_tokens": 4_096, "context_tokens": 128, "batch_ramp": ramp}, {"context_tokens": 512}
    )
    first, second = recipe.phases.values()
    assert (first.row_tokens, first.micro_batch_tokens, second.row_tokens) == (128, 128, 512)
    assert recipe.data.num_streams == 8  # of 8 and 32, then 8 rows
    for ranks in range(1, 9):
        assert validate(recipe, ranks) == []
    # What is recorded is what is resumed.
    assert load_recipe(write(tmp_path, dump_recipe(recipe), "recorded.yaml")) == recipe


def test_auto_replaces_what_an_included_file_states(tmp_path):
    overrides = [
        "data.num_streams=auto",
        "phases.phase0.row_tokens=auto",
        "phases.phase0.micro_batch_tokens=auto",
    ]
    sizes = {"batch_tokens": 65_536, "row_tokens": 1_024, "micro_batch_tokens": 2_048}
    stated = load(tmp_path, sizes, num_streams=2)
    assert (stated.data.num_streams, stated.phases["phase0"].row_tokens) == (2, 1_024)
    auto = load(tmp_path, sizes, overrides=overrides, num_streams=2)
    assert (auto.data.num_streams, auto.phases["phase0"].row_tokens) == (8, 8_192)
    assert auto.phases["phase0"].micro_batch_tokens == 8_192


def test_streams_are_those_of_the_whole_run(tmp_path):
    phases = {"batch_tokens": 8_192 * 64}, {"batch_tokens": 8_192 * 48}
    assert load(tmp_path, *phases).data.num_streams == 16
    alone = load(tmp_path, *phases, overrides=["phase=phase0"])
    assert (list(alone.phases), alone.data.num_streams) == (["phase0"], 16)


def test_an_error_elsewhere_comes_first(tmp_path):
    with pytest.raises(ValueError, match="batch_tokens is 'many', expected a whole number") as caught:
        load(tmp_path, {"batch_tokens": "many"}, {"batch_tokens": 512})
    assert "row" not in str(caught.value)


WITHOUT_MODEL = YAML.replace("model: {vocab_size: 128, hidden_size: 8, num_attention_heads: 2, ", "model: {")


def test_the_vocabulary_of_the_tokenizer(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", num_words=300)
    text = WITHOUT_MODEL.replace("tokenizer: store", f"tokenizer: {tmp_path}/tokenizer")
    assert load_recipe(write(tmp_path, text)).model.vocab_size == 320  # of 305 ids
    assert load_recipe(write(tmp_path, text), ["model.vocab_size=auto"]).model.vocab_size == 320
    assert load_recipe(write(tmp_path, text), ["model.vocab_size=1024"]).model.vocab_size == 1_024
    assert load_recipe(write(tmp_path, text), ["model.vocab_size=1000"]).model.vocab_size == 1_024
    with pytest.raises(ValueError, match=r"data\.tokenizer: .*does not exist.*leaves out model\.vocab_size"):
        load_recipe(write(tmp_path, WITHOUT_MODEL))


def test_the_model_of_the_weights(tmp_path):
    weights = ModelConfig(
        vocab_size=320,
        hidden_size=32,
        num_attention_heads=4,
        norm="rmsnorm",
        attn_out_dropout=0.0,
    )
    checkpoint = tmp_path / "run/checkpoints/step-00000003.pt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({}, unfinished_path(checkpoint))
    finish_checkpoint(checkpoint, make_info(model=weights, global_rope_theta=44_000.0))
    path = write(tmp_path, WITHOUT_MODEL)
    from_run = f"init.from={tmp_path}/run"
    recipe = load_run_recipe(path, [from_run])
    model = recipe.model
    dropout = {"attn_out_dropout": ModelConfig.attn_out_dropout}
    # The YAML states max_position_embeddings.
    assert model == replace(weights, **dropout, max_position_embeddings=64)
    phases = list(recipe.phases)
    assert recipe.phases[phases[0]].global_rope_theta == 44_000
    own = load_run_recipe(path, [from_run, f"phases.{phases[0]}.global_rope_theta=20_000"])
    assert {phase.global_rope_theta for phase in own.phases.values()} >= {20_000}
    larger = load_run_recipe(path, [from_run, "model.hidden_size=64", "init.method=tile_middle"]).model
    assert larger == replace(model, hidden_size=64)
    make_tokenizer(tmp_path / "tokenizer", num_words=60)
    other = [from_run, "init.transplant=true", f"data.tokenizer={tmp_path}/tokenizer"]
    assert load_run_recipe(path, other).model == replace(model, vocab_size=128)
    begun = tmp_path / "begun"
    begun.mkdir()
    assert load_run_recipe(path, ["init.from=nowhere", f"run_folder={begun}"]).model.hidden_size == 768
    (begun / "recipe.yaml").touch()
    with pytest.raises(ValueError, match=r"init\.from: .*nowhere.*begun/recipe\.yaml"):
        load_run_recipe(path, ["init.from=nowhere", f"run_folder={begun}"])


def test_a_single_source_needs_no_mixture(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: one\ndata: {tokenizer: t, sources: {web: {store: s}}}\nmodel: {vocab_size: 64}\n"
        "phases: {first: {tokens: 1M, batch_tokens: 8192, learning_rate: 1e-3}, second: {tokens: 1M}}"
    )
    assert [phase.mixture.shares for phase in load_recipe(path).phases.values()] == [{"web": 1.0}] * 2
    with pytest.raises(ValueError, match=r"phases\.first\.mixture is missing"):
        load_recipe(path, ["data.sources.code={store: s}"])
