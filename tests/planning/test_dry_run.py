import re
from dataclasses import replace
from typing import get_args

import pytest

from modernbert_train.config import BatchRampConfig, MixtureConfig, ModelConfig, SkipConfig, load_recipe
from modernbert_train.config.architecture import describe_model, num_parameters
from modernbert_train.config.schema import MLPS, Mlp
from modernbert_train.planning.dry_run import describe
from modernbert_train.planning.source_stats import PhaseStats, SourceStats, lost_text_warnings, repetitions
from modernbert_train.schedule import build_schedule
from modernbert_train.store.lost_text import TextCounts
from tests.helpers.little_recipe import a_phase, a_recipe
from tests.helpers.recipes import shipped_recipes

TINY = ModelConfig(
    vocab_size=1_024,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=96,
    max_position_embeddings=1_024,
)

BERT = ModelConfig(
    vocab_size=30_528,
    num_hidden_layers=12,
    intermediate_size=3_072,
    norm_placement="post",
    mlp="gelu",
    positions="learned",
    bias=True,
    global_attn_every_n_layers=1,
    max_position_embeddings=512,
)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [  # counted in Transformers' ModernBertForMaskedLM, the tied matrix once
        (ModelConfig(), 149_655_232),
        (
            ModelConfig(
                hidden_size=1_024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=2_624
            ),
            395_881_664,
        ),
        (TINY, 210_560),
        (BERT, 109_518_912 - 2 * 768),  # BertForMaskedLM, without token type embeddings
    ],
)
def test_parameters(model, parameters):
    assert num_parameters(model) == parameters


@pytest.mark.parametrize("mlp", get_args(Mlp))
def test_every_mlp_has_a_name(mlp):
    assert f"{MLPS[mlp].display_name} 96, " in describe_model(replace(TINY, mlp=mlp))


def lines_of(recipe, data=None):
    return describe(recipe, build_schedule(recipe), data).splitlines()


def test_the_figures_of_a_run():
    ramp = BatchRampConfig(start_tokens=64, tokens=640)
    first = a_phase(batch_ramp=ramp, warmup_tokens=1_000, micro_batch_tokens=64)
    second = a_phase(
        tokens=1_280,
        context_tokens=32,
        global_rope_theta=160_000.0,
        decay_tokens=1_280,
        final_lr_fraction=0.1,
        weight_decay=2e-3,
        mixture=MixtureConfig({"web": 1.0}),
    )
    lines = lines_of(a_recipe(first, second))
    assert lines[0] == "little: 5.376K tokens in 47 steps"
    cells = {line[:20].strip(): line[20:].split() for line in lines if line[:20].strip()}
    assert cells["phase"] == ["phase0", "phase1"]
    assert cells["tokens"] == ["4.096K", "1.28K"]
    assert cells["steps"] == ["37", "10"]
    assert cells["rows"] == ["128", "40"]
    assert cells["batch rows"] == ["2", "→", "4", "4"]
    assert cells["ramp tokens"] == ["640", "-"]
    assert cells["warmup tokens"] == ["1K", "-"]
    assert cells["decay to"] == ["-", "0.0001", "(1-sqrt)"]
    assert cells["share web"] == ["75.00%", "100.00%"]
    assert cells["share code"] == ["25.00%", "-"]
    assert cells["micro-batch tokens"] == ["64", "64"]
    assert cells["last checkpoint"] == ["step-00000037", "step-00000047"]
    assert cells["weight decay"] == ["1e-05", "0.002"]
    assert not any("epochs" in line for line in lines)


def test_what_each_of_some_ranks_gets():
    ramp = BatchRampConfig(start_tokens=8 * 32, tokens=2_000)
    first = a_phase(batch_ramp=ramp, batch_tokens=16 * 32, micro_batch_tokens=96)
    second = a_phase(batch_tokens=8 * 32, micro_batch_tokens=32)
    recipe = a_recipe(first, second, data=replace(a_recipe().data, num_streams=8))

    def of(num_ranks):
        lines = describe(recipe, build_schedule(recipe), num_ranks=num_ranks).splitlines()
        text = next((line[13:] for line in lines if line.startswith("ranks ")), None)
        return text, {line[:20].strip(): line[20:].split() for line in lines if line[:20].strip()}

    text, cells = of(3)
    assert text == "2 with 3 streams, 1 with 2"
    assert cells["rows of a rank"] == ["4", "or", "6", "2", "or", "3"]
    assert cells["micro-batches"] == ["2", "x", "3", "rows", "3", "x", "1", "rows"]
    assert cells["padding rows"] == ["11.1%", "11.1%"]  # 2 of 18, and 1 of 9
    text, cells = of(8)
    assert text == "8, each with 1 stream"
    assert cells["micro-batches"] == ["1", "x", "2", "rows", "1", "x", "1", "rows"]
    assert cells["padding rows"] == ["0.0%", "0.0%"]
    text, cells = of(None)
    assert text is None
    assert "padding rows" not in cells


def model_text(model):
    lines = lines_of(a_recipe(model=model))
    return " ".join(" ".join(lines[2 : next(i for i, line in enumerate(lines) if "start" in line)]).split())


def test_the_model_in_words():
    assert model_text(TINY) == (
        "model 210,560 parameters: 4 layers (2 global, the others 64 tokens to either side), hidden 64, 2 heads, "
        "GeGLU 96, vocabulary 1,024"
    )
    assert model_text(BERT) == (
        "model 109,517,376 parameters: 12 layers (all global), hidden 768, 12 heads, GELU 3,072, vocabulary 30,528, "
        "post-norm, learned positions, biases"
    )
    other = replace(TINY, mlp="swiglu", norm="rmsnorm", positions="none", parallel_block=True)
    assert model_text(other).endswith(
        "SwiGLU 96, vocabulary 1,024, RMSNorm, no positions, attention and MLP in parallel"
    )


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_only_rotary_positions_have_a_theta(positions):
    model = replace(a_recipe().model, positions=positions)
    assert not any("theta" in line for line in lines_of(a_recipe(a_phase(), a_phase(), model=model)))


def test_a_mixture_that_only_the_stores_resolve():
    epochs = a_phase(mixture=MixtureConfig(epochs={"web": 1, "code": 2.5}))
    temperature = a_phase(mixture=MixtureConfig(temperature=0.3))
    some = a_phase(mixture=MixtureConfig(temperature=0.5, sources=["code"]))
    lines = lines_of(a_recipe(epochs, temperature, some))
    cells = {line[:20].strip(): re.split("  +", line[20:].strip()) for line in lines}
    assert cells["share web"] == ["1 x tokens", "tokens^0.3", "-"]
    assert cells["share code"] == ["2.5 x tokens", "tokens^0.3", "tokens^0.5"]


# 3,000 tokens of web in 300 documents, 1,000 of code in 50: 3,600 and 400 tokens, then 1,000 of web.
DATA = [
    PhaseStats({"web": SourceStats(0.9, 3_600, 1.2, 360), "code": SourceStats(0.1, 400, 0.4, 20)}, 0.99951),
    PhaseStats({"web": SourceStats(1.0, 1_000, 1 / 3, 100)}, 0.98),
]
SOURCES = """
source              phase                  share    tokens   epochs    documents
────────────────────────────────────────────────────────────────────────────────
web                 phase0                90.00%      3.6K      1.2          360
                    phase1               100.00%        1K    0.333          100
                    whole run             92.00%      4.6K     1.53          460
code                phase0                10.00%       400      0.4           20
                    whole run              8.00%       400      0.4           20
science is not trained on: in no phase's mixture
"""


def test_sources_are_shown_if_the_stores_exist():
    recipe = a_recipe(a_phase(), a_phase(mixture=MixtureConfig({"web": 1.0})))
    sources = {**recipe.data.sources, "science": recipe.data.sources["web"]}
    lines = lines_of(replace(recipe, data=replace(recipe.data, sources=sources)), DATA)
    assert SOURCES.strip() in "\n".join(lines)
    cells = {line[:20].strip(): line[20:].split() for line in lines}
    assert cells["fill of the rows"] == ["99.951%", "98.000%"]
    assert "share web" not in cells
    assert not any("WARNING" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_warning_about_sources_with_too_many_epochs():
    recipe = a_recipe(a_phase(), a_phase())
    assert repetitions(DATA, warn_epochs=1.6) == []
    (warning,) = repetitions(DATA, warn_epochs=1.5)
    assert warning.startswith(
        "source web is repeated 1.53 times over the run (data.warn_epochs: 1.5); further"
    )
    lines = lines_of(replace(recipe, data=replace(recipe.data, warn_epochs=1.5)), DATA)
    at = next(number for number, line in enumerate(lines) if line.startswith("WARNING"))
    assert " ".join(" ".join(lines[at:]).split()) == f"WARNING {warning}"


def test_what_the_tokenizer_made_of_the_text_is_shown_and_warned_of():
    recipe = a_recipe(a_phase())
    schedule = build_schedule(recipe)
    data = [PhaseStats({"web": SourceStats(1.0, 1_000, 0.5, 10)}, fill=1.0)]
    texts = {
        "web": TextCounts(100, 100, 20, unknown_tokens=5, normalized_characters=80, lost_characters=2),
        "code": TextCounts(
            100, 100, 20, sampled_characters=90, deleted_characters=9, normalized_characters=81
        ),
        "law": TextCounts(100, 100, 20, normalized_characters=81),
        "old": None,
    }
    words = " ".join(describe(recipe, schedule, data, texts=texts).split())
    assert (
        "web: 25.00% of the tokens are [UNK], 2.50% of the characters are lost; 0.2 tokens per char" in words
    )
    assert "old: not measured" in words
    warnings = [
        "source web: the tokenizer loses 25.0% of the text; use one that was trained on such text",
        "source code: the normalizer of the tokenizer deletes 10.0% of the text",
    ]
    assert all(f"WARNING {warning}" in words for warning in warnings)
    assert lost_text_warnings(texts) == warnings


def test_skipped_data_is_shown():
    recipe = a_recipe(a_phase())
    skip = SkipConfig(steps=["3", "5-8"], documents=["web:17"], documents_file="bad.txt")
    text = " ".join(" ".join(lines_of(replace(recipe, data=replace(recipe.data, skip=skip)))).split())
    assert "skipped 5 steps (3, 5-8); documents web:17, the list in bad.txt masking" in text


def test_the_disk_that_checkpoints_take():
    recipe = a_recipe(a_phase(), model=TINY)
    training = replace(recipe.training, save_every_tokens=1_024, keep_checkpoints=3)
    text = " ".join(" ".join(lines_of(replace(recipe, training=training))).split())
    # 4,096 tokens in all, and the end of the phase. A checkpoint: weight and two moments of 210,560 parameters,
    # 4 bytes each: 2,526,720 bytes. Up to 3 + 1 of them, and one being written.
    expected = (
        "about 5 saved, 2.527MB each; the newest 3 and the last of each phase are kept: up to 12.63MB on disk"
    )
    assert f"checkpoints {expected}" in text


def test_a_recipe_for_the_cpu_has_no_figures_of_gpus():
    recipe = a_recipe(a_phase(), a_phase())
    on_cpu = replace(recipe, training=replace(recipe.training, device="cpu"))
    schedule = build_schedule(recipe)
    assert describe(recipe, schedule).count("GPU") >= 3
    assert "GPU" not in describe(on_cpu, schedule)
    assert describe(on_cpu, schedule, tokens_per_s=10.0) == describe(recipe, schedule, tokens_per_s=10.0)


PICTURE = """
                    phase0                       │phase1
learning rate                  ▁▄▆█▆▄▁           │           ▁▄▆█▆▄▁
  top: 0.001               ▁▃▅▇███████▇▅▃▁       │       ▁▃▅▇███████▇▅▃▁
                        ▂▄▆███████████████▆▄▂    │    ▂▄▆███████████████▆▄▂
                    ▁▃▆███████████████████████▆▃▁│▁▃▆███████████████████████▆▃▁
batch tokens        █████████████████████████████│              ███████████████
  top: 128          █████████████████████████████│█████████████████████████████
objective           30% masked ──────────────────│15% masked ──────────────────
theta global        10,000 ──────────────────────│160,000 ─────────────────────
context tokens      16 ──────────────────────────│32 ──────────────────────────
tokens so far       0                            │4.096K
"""


def test_the_picture():
    """Two phases of 4,096 tokens: the rate up in the first half of each, down in the second; in the first
    half of the second phase batches half as large.
    """
    first = a_phase(warmup_tokens=2_048, decay_tokens=2_048, decay_shape="linear")
    ramp = BatchRampConfig(start_tokens=64, tokens=2_048)
    second = replace(first, batch_ramp=ramp, mask_rate=0.15, global_rope_theta=160_000.0, context_tokens=32)
    assert PICTURE.strip("\n") in "\n".join(lines_of(a_recipe(first, second)))


def test_a_next_token_phase_is_shown():
    lines = lines_of(a_recipe(a_phase(objective="clm"), a_phase()))
    text = " ".join(" ".join(lines).split())
    assert "evaluation about 2 times, next token and 15% masked, about 64 rows of each source" in text
    table, picture = [line[20:].split("  ") for line in lines if line.startswith("objective")]
    assert [cell.strip() for cell in table if cell] == ["next token", "30% masked"]
    assert picture[0].startswith("next token ─")
    assert "─│30% masked ─" in picture[0]


@pytest.mark.parametrize("num_phases", [1, 2, 5, 9])
def test_it_fits_into_80_columns(num_phases):
    recipe = a_recipe(*[a_phase(tokens=4_096 * 10**number) for number in range(num_phases)])
    long_names = {f"a-phase-with-a-rather-long-name-{name}": phase for name, phase in recipe.phases.items()}
    recipe = replace(recipe, phases=long_names)
    lines = lines_of(recipe)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("theta local") for line in lines) == -(-num_phases // 4)


@pytest.mark.parametrize("columns", [40, 47, 60])
def test_it_fits_a_narrow_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = lines_of(a_recipe(a_phase(), a_phase(mixture=MixtureConfig({"web": 1.0}))), DATA)
    assert max(map(len, lines)) <= columns
    cells = [line.split() for line in lines]
    assert ["batch", "rows", "4", "4"] in cells or cells.count(["batch", "rows", "4"]) == 2
    phase, documents = "phas…" if columns == 40 else "phase0", ["360"] if columns == 60 else []
    assert ["web", phase, "90.00%", "3.6K", "1.2", *documents] in cells


def test_sources_with_long_similar_names_keep_their_lines():
    names = ["a-source-with-a-long-name-1", "a-source-with-a-long-name-2"]
    recipe = a_recipe(a_phase(mixture=MixtureConfig({names[0]: 0.3, names[1]: 0.7})))
    recipe = replace(
        recipe, data=replace(recipe.data, sources=dict.fromkeys(names, recipe.data.sources["web"]))
    )
    shares = [line.split()[-1] for line in lines_of(recipe) if line.startswith("share ")]
    assert shares == ["30.00%", "70.00%"]


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_shipped_recipes(path):
    recipe = load_recipe(path)
    text = describe(recipe, build_schedule(recipe))
    assert text.startswith(f"{recipe.name}: ")
    assert all(len(line) <= 80 for line in text.splitlines())
