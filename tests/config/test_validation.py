from dataclasses import replace

import pytest

from modernbert_train.config import (
    BatchRampConfig,
    CacheConfig,
    DataConfig,
    EvaluationConfig,
    MaskingConfig,
    MixtureConfig,
    OptimizerConfig,
    SourceConfig,
    TrainingConfig,
    validate,
)
from tests.helpers.little_recipe import a_phase, a_recipe

MODEL = a_recipe().model
DATA = a_recipe().data
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_valid_recipe_has_no_problems(world_size):
    ramp = BatchRampConfig(start_tokens=64, tokens=64)
    phases = (
        a_phase(),
        a_phase(batch_ramp=ramp, micro_batch_tokens=32),
        a_phase(warmup_tokens=96, decay_tokens=4_000),
    )
    assert validate(a_recipe(*phases), world_size) == []


def problem_of(recipe, start, world_size=1):
    """Return the only problem; it must begin with `start`."""
    (problem,) = validate(recipe, world_size)
    assert problem.startswith(start), problem
    return problem


@pytest.mark.parametrize(
    ("fields", "start", "remedy"),
    [
        ({"name": "a/b"}, "name is 'a/b': ", "use only '.', letters, digits, "),
        ({"run_folder": "runs/{nam}"}, "run_folder is 'runs/{nam}': ", "only {name} is replaced"),
        (
            {"run_folder": "s3://bucket/{name}"},
            "run_folder is s3://bucket/{name}, a URL, ",
            "copy it to the URL",
        ),
        (
            {"data": replace(DATA, cache=CacheConfig("gs://bucket"))},
            "data.cache.folder is gs://bucket, a URL, ",
            "name a folder on this machine",
        ),
        ({"seed": -1}, "seed is -1: ", "must be from 0 to 4294967295"),
        ({"phases": {}}, "phases is empty: ", "add at least one"),
        ({"phases": {"a b": a_phase()}}, "phases has the name 'a b': ", "use only letters"),
        ({"training": TrainingConfig(keep_checkpoints=0)}, "training.keep_checkpoints is 0: ", "at least 1"),
        ({"training": TrainingConfig(log_every_steps=0)}, "training.log_every_steps is 0: ", "at least 1"),
        ({"evaluation": EvaluationConfig(max_rows=0)}, "evaluation.max_rows is 0: ", "at least 1"),
        (
            {"evaluation": EvaluationConfig(mask_rate=1.0)},
            "evaluation.mask_rate is 1.0: ",
            "above 0 and less than 1",
        ),
        (
            {"masking": MaskingConfig(0.8, 0.3)},
            "masking.mask_fraction is 0.8 and random_fraction 0.3: ",
            "together at most 1",
        ),
        ({"masking": MaskingConfig(1.0, -0.1)}, "masking.mask_fraction", "each must be at least 0"),
        ({"masking": MaskingConfig(NAN, 0.1)}, "masking.mask_fraction", "each must be at least 0"),
        ({"masking": MaskingConfig(0.1, NAN)}, "masking.mask_fraction", "each must be at least 0"),
        (
            {"optimizer": OptimizerConfig(betas=(0.9, 1.0))},
            "optimizer.betas is [0.9, 1.0]: ",
            "such as [0.9, 0.98]",
        ),
        ({"optimizer": OptimizerConfig(eps=0.0)}, "optimizer.eps is 0.0: ", "above 0"),
        ({"optimizer": OptimizerConfig(weight_decay=-1.0)}, "optimizer.weight_decay is -1.0: ", "at least 0"),
        (
            {"optimizer": OptimizerConfig(gradient_clip_norm=0.0)},
            "optimizer.gradient_clip_norm is 0.0: ",
            "or null",
        ),
        (
            {"optimizer": OptimizerConfig(momentum=0.9)},
            "optimizer.momentum is 0.9, but stableadamw has no momentum; ",
            "or optimizer.name to muon",
        ),
        (
            {"optimizer": OptimizerConfig(name="muon", momentum=1.0)},
            "optimizer.momentum is 1.0: ",
            "such as 0.95",
        ),
    ],
)
def test_run_masking_optimizer(fields, start, remedy):
    assert remedy in problem_of(a_recipe(**fields), start)


@pytest.mark.parametrize(
    ("fields", "start", "remedy"),
    [
        ({"hidden_size": 9}, "model.hidden_size is 9, not a multiple of num_attention_heads (2)", "use 10"),
        (
            {"hidden_size": 6},
            "model.hidden_size is 6 and num_attention_heads 2: RoPE rotates pairs of dimensions, but a head has 3; ",
            "hidden_size 8",
        ),
        (
            {"local_attention": 129},
            "model.local_attention is 129: ",
            "must be even, because half of the window is on either side of a token; use 130",
        ),
        ({"num_attention_heads": 0}, "model.num_attention_heads is 0: ", "at least 1"),
        ({"num_hidden_layers": 0}, "model.num_hidden_layers is 0: ", "at least 1"),
        ({"intermediate_size": -1}, "model.intermediate_size is -1: ", "at least 1"),
        ({"global_attn_every_n_layers": 0}, "model.global_attn_every_n_layers is 0: ", "at least 1"),
        ({"norm_eps": 0.0}, "model.norm_eps is 0.0: ", "above 0"),
        ({"global_rope_theta": INF}, "model.global_rope_theta is inf: ", "finite"),
        ({"attn_out_dropout": 1.0}, "model.attn_out_dropout is 1.0: ", "must be at least 0 and less than 1"),
        (
            {"embedding_dropout": -0.1},
            "model.embedding_dropout is -0.1: ",
            "must be at least 0 and less than 1",
        ),
        ({"mlp_out_dropout": NAN}, "model.mlp_out_dropout is nan: ", "must be at least 0 and less than 1"),
        (
            {"parallel_block": True, "norm_placement": "post"},
            "model.parallel_block is true and model.norm_placement is post: ",
            "set norm_placement to pre, or parallel_block to false",
        ),
    ],
)
def test_model(fields, start, remedy):
    assert remedy in problem_of(a_recipe(model=replace(MODEL, **fields)), start)


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_only_rope_needs_an_even_number_of_dimensions_per_head(positions):
    assert validate(a_recipe(model=replace(MODEL, hidden_size=6, positions=positions))) == []


def test_a_context_beyond_the_learned_positions():
    recipe = a_recipe(a_phase(), model=replace(MODEL, positions="learned", max_position_embeddings=15))
    problem = problem_of(
        recipe, "phases.phase0.context_tokens is 16, more than model.max_position_embeddings (15), "
    )
    assert problem.endswith("and there are no learned positions beyond; raise that or lower context_tokens")


@pytest.mark.parametrize(
    ("fields", "start", "remedy"),
    [
        ({"num_streams": 0}, "data.num_streams is 0: ", "at least 1"),
        (
            {"num_canonical_nodes": 3},
            "data.num_canonical_nodes is 3: must divide data.num_streams (2); ",
            "use 1",
        ),
        ({"num_canonical_nodes": 0}, "data.num_canonical_nodes is 0: ", "use 2"),
        ({"shuffle_rows": 0}, "data.shuffle_rows is 0: ", "at least 1"),
        ({"num_workers": -1}, "data.num_workers is -1: ", "must be at least 0"),
        (
            {"sources": {"web": SourceConfig(""), "code": SourceConfig(""), "a.b": SourceConfig("")}},
            "data.sources has the name 'a.b': ",
            "use only letters",
        ),
    ],
)
def test_data(fields, start, remedy):
    assert remedy in problem_of(a_recipe(data=replace(DATA, **fields)), start)


@pytest.mark.parametrize(
    ("fields", "start", "remedy"),
    [
        ({"context_tokens": 2}, "context_tokens is 2: ", "at least 3, for [CLS], one token and [SEP]"),
        ({"context_tokens": 33}, "context_tokens is 33, more than row_tokens (32), ", "raise row_tokens or"),
        ({"tokens": 100}, "tokens is 100, less than one batch (128); ", "lengthen the phase"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens is 0: ", "at least 1"),
        (
            {"micro_batch_tokens": 40},
            "micro_batch_tokens is 40, not a multiple of row_tokens (32); ",
            "use 32 or 64, or leave it out",
        ),
        (
            {"batch_tokens": 130},
            "batch_tokens is 130, not a multiple of 64, ",
            "(row_tokens 32 x data.num_streams 2); use batch_tokens 128 or 192, or row_tokens 65",
        ),
        (
            {"batch_tokens": 96},
            "batch_tokens is 96, not a multiple of 64, ",
            "use batch_tokens 64 or 128, or data.num_streams 1 or 3 (auto chooses it), or row_tokens 24 or 48",
        ),
        (
            {"batch_tokens": 33, "row_tokens": 33, "micro_batch_tokens": 33},
            "batch_tokens is 33, not a multiple of 66, ",
            "use batch_tokens 66, or data.num_streams 1 (auto chooses it)",
        ),
        (
            {"warmup_tokens": 4_000, "decay_tokens": 97},
            "warmup_tokens (4000) and decay_tokens (97) are together more than the phase's tokens (4096); ",
            "shorten them",
        ),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: ", "above 0"),
        ({"learning_rate": NAN}, "learning_rate is nan: ", "finite"),
        ({"local_rope_theta": -1.0}, "local_rope_theta is -1.0: ", "above 0"),
        ({"weight_decay": -1e-5}, "weight_decay is -1e-05: ", "at least 0"),
        ({"weight_decay": INF}, "weight_decay is inf: ", "finite"),
        ({"start_lr_fraction": 2.0}, "start_lr_fraction is 2.0: ", "from 0 to 1"),
        (
            {"start_lr_fraction": 0.5},
            "start_lr_fraction is 0.5, but warmup_tokens is 0, so it has no effect; ",
            "set warmup_tokens, or start_lr_fraction to 0",
        ),
        (
            {"final_lr_fraction": 0.1, "warmup_tokens": 96},
            "final_lr_fraction is 0.1, but decay_tokens is 0, so it has no effect; ",
            "set decay_tokens, or final_lr_fraction to 0",
        ),
        ({"final_lr_fraction": -0.1}, "final_lr_fraction is -0.1: ", "from 0 to 1"),
        ({"mask_rate": 0.0}, "mask_rate is 0.0: ", "above 0 and less than 1"),
        ({"mixture": MixtureConfig({})}, "mixture is empty: ", "such as {web: 1.0}"),
        (
            {"mixture": MixtureConfig({"wbe": 1.0})},
            "mixture names 'wbe', which is not in data.sources",
            "did you mean web?",
        ),
        (
            {"mixture": MixtureConfig({"xyz": 1.0})},
            "mixture names 'xyz', which is not in data.sources",
            "the sources are web, code",
        ),
        ({"mixture": MixtureConfig({"web": 0.0})}, "mixture.web is 0.0: ", "or null to leave out the source"),
        ({"mixture": MixtureConfig({"web": INF})}, "mixture.web is inf: ", "finite"),
    ],
)
def test_phases(fields, start, remedy):
    assert remedy in problem_of(a_recipe(a_phase(**fields)), "phases.phase0." + start)


def test_rows_of_no_tokens():
    problems = validate(a_recipe(a_phase(row_tokens=0)))
    assert "phases.phase0.row_tokens is 0: must be at least 1" in problems


def test_context_beyond_the_model():
    phase = a_phase(context_tokens=128, row_tokens=128, batch_tokens=256, micro_batch_tokens=128)
    problem = problem_of(
        a_recipe(phase), "phases.phase0.context_tokens is 128, more than model.max_position_embeddings (64); "
    )
    assert "raise that" in problem


@pytest.mark.parametrize(
    ("ramp", "start", "remedy"),
    [
        (
            (128, 512),
            "batch_ramp.start_tokens is 128: must be less than batch_tokens (128); ",
            "batch_ramp to null",
        ),
        (
            (32, 512),
            "batch_ramp.start_tokens is 32, not a multiple of 64, ",
            "use batch_ramp.start_tokens 64, or data.num_streams 1 (auto chooses it), or row_tokens 16",
        ),
        ((64, 0), "batch_ramp.tokens is 0: ", "from 1 to the phase's tokens (4096)"),
        ((64, 5_000), "batch_ramp.tokens is 5000: ", "from 1 to the phase's tokens (4096)"),
        (
            (64, 63),
            "batch_ramp.tokens is 63, but one step at each batch size",
            "needs 64; raise",
        ),
    ],
)
def test_ramps(ramp, start, remedy):
    assert remedy in problem_of(
        a_recipe(a_phase(batch_ramp=BatchRampConfig(*ramp))), "phases.phase0." + start
    )


def test_what_depends_on_the_number_of_ranks():
    # Neither streams, rows nor micro-batches need to divide evenly.
    recipe = a_recipe(a_phase(batch_tokens=224, micro_batch_tokens=96), data=replace(DATA, num_streams=7))
    for ranks in range(1, 8):
        assert validate(recipe, ranks) == []
    problem = problem_of(recipe, "data.num_streams is 7, less than the number of ranks (8), each of which", 8)
    assert problem.endswith("use at most 7 ranks, or in a new run at least 8 streams")


def test_all_problems_are_reported_at_once():
    phases = (a_phase(mask_rate=2.0), a_phase(learning_rate=-1.0))
    recipe = a_recipe(*phases, seed=-1, data=DataConfig("t", {}, num_streams=2, num_workers=0))
    fields = [problem.split()[0] for problem in validate(recipe)]
    assert fields == [
        "seed",
        "data.sources",
        "phases.phase0.mask_rate",
        "phases.phase0.mixture",
        "phases.phase0.mixture",
        "phases.phase1.learning_rate",
        "phases.phase1.mixture",
        "phases.phase1.mixture",
    ]
