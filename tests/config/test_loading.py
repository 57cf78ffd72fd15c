import dataclasses

import pytest

from modernbert_train.config import BatchRampConfig, MixtureConfig, PhaseConfig, dump_recipe, load_recipe
from modernbert_train.objectives import MaskedLM, NextToken
from modernbert_train.schedule import build_schedule
from tests.helpers.little_recipe import YAML, write


def test_defaults_below_yaml_below_command_line(tmp_path):
    path = write(tmp_path)
    recipe = load_recipe(path, ["optimizer.eps=1e-7", "phases.pretrain.tokens=8_192", "model.hidden_size=16"])
    assert recipe.model.num_hidden_layers == 22  # default
    assert recipe.model.vocab_size == 128  # YAML
    assert recipe.model.hidden_size == 16  # command line over YAML
    assert recipe.optimizer.eps == 1e-7
    assert recipe.phases["pretrain"].tokens == 8192
    assert recipe.run_folder == "runs/little"


def test_the_result_is_plain_python(tmp_path):
    recipe = load_recipe(write(tmp_path))

    def check(value):
        assert (
            type(value).__module__ == "builtins" or type(value).__module__ == "modernbert_train.config.schema"
        )
        children = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list | tuple)
            else [getattr(value, field.name) for field in dataclasses.fields(value)]
            if dataclasses.is_dataclass(value)
            else []
        )
        for child in children:
            check(child)

    check(recipe)
    assert recipe.optimizer.betas == (0.9, 0.98)


def test_a_phase_inherits_and_the_first_one_has_defaults(tmp_path):
    pretrain, extension = load_recipe(write(tmp_path)).phases.values()
    assert (pretrain.micro_batch_tokens, pretrain.mask_rate, pretrain.global_rope_theta) == (
        32,
        0.3,
        10_000.0,
    )
    assert pretrain.mixture == MixtureConfig({"web": 0.75, "code": 0.25})
    own = {"tokens": 1_280, "context_tokens": 32, "global_rope_theta": 160_000.0}
    assert extension == dataclasses.replace(pretrain, **own)


def test_other_fields_are_not_inherited(tmp_path):
    own = "{start_lr_fraction: 0.1, warmup_tokens: 256, decay_tokens: 256, decay_shape: cosine, "
    own += "final_lr_fraction: 0.1}"
    ramp = "batch_ramp: {start_tokens: 64, tokens: 256}"
    text = YAML.replace("tokens: 4K", f"tokens: 4K\n    {ramp}\n    <<: {own}")
    pretrain, extension = load_recipe(write(tmp_path, text)).phases.values()
    assert pretrain.batch_ramp == BatchRampConfig(start_tokens=64, tokens=256)
    assert pretrain.decay_shape == "cosine"
    for name in (
        "warmup_tokens",
        "start_lr_fraction",
        "decay_tokens",
        "decay_shape",
        "final_lr_fraction",
        "batch_ramp",
    ):
        assert getattr(extension, name) == getattr(PhaseConfig, name)


def test_null_in_a_phase_means_inherited(tmp_path):
    overrides = ["phases.extension.context_tokens=null", "phases.pretrain.mask_rate=0.2"]
    extension = load_recipe(write(tmp_path), overrides).phases["extension"]
    assert (extension.context_tokens, extension.mask_rate) == (16, 0.2)


def test_the_mask_rate_is_inherited_through_a_clm_phase(tmp_path):
    path = write(tmp_path, YAML + "  decay: {tokens: 640}\n")
    objectives = [
        "phases.pretrain.objective=clm",
        "phases.decay.objective=mlm",
        "phases.pretrain.mask_rate=0.2",
    ]
    phases = load_recipe(path, objectives).phases.values()
    assert [phase.objective for phase in phases] == ["clm", "clm", "mlm"]
    assert [phase.objective for phase in build_schedule(load_recipe(path, objectives)).phases] == [
        NextToken(),
        NextToken(),
        MaskedLM(0.2),
    ]


def test_the_defaults_of_the_first_phase(tmp_path):
    text = """
name: short
model: {vocab_size: 1024}
data: {tokenizer: store, sources: {web: {store: store}}}
phases: {only: {tokens: 1M, batch_tokens: 524_288, learning_rate: 1e-3, mixture: {web: 1}}}
"""
    only = load_recipe(write(tmp_path, text)).phases["only"]
    assert (only.context_tokens, only.row_tokens, only.micro_batch_tokens) == (1024, 8192, 8192)
    assert (only.global_rope_theta, only.local_rope_theta, only.mask_rate) == (10_000.0, 10_000.0, 0.3)
    assert only.objective == "mlm"


def test_numbers_with_an_exponent(tmp_path):
    # YAML 1.1 reads 1e-4, which has no decimal point, as text.
    text = YAML.replace("1e-3", "1e-4") + "optimizer: {eps: 1E-7, weight_decay: 1.0e-5}\n"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.phases["pretrain"].learning_rate == 1e-4
    assert (recipe.optimizer.eps, recipe.optimizer.weight_decay) == (1e-7, 1e-5)


def test_includes_are_relative_to_the_including_file(tmp_path):
    write(tmp_path, "model: {num_hidden_layers: 1, intermediate_size: 1, local_attention: 2}", "parts/a.yaml")
    write(tmp_path, "include: [a.yaml]\nmodel: {num_hidden_layers: 2, intermediate_size: 2}", "parts/b.yaml")
    write(tmp_path, "model: {num_hidden_layers: 3}", "c.yaml")
    path = write(tmp_path, "include: [../parts/b.yaml, ../c.yaml]\n" + YAML, "recipes/little.yaml")
    model = load_recipe(path).model
    assert (model.num_hidden_layers, model.intermediate_size, model.local_attention) == (3, 2, 2)
    assert load_recipe(write(tmp_path, "include: c.yaml\n" + YAML)).model.num_hidden_layers == 3


def test_an_empty_section_is_ignored(tmp_path):
    write(tmp_path, "model: {num_hidden_layers: 1}", "model.yaml")
    text = "include: [model.yaml]\noptimizer:\n" + YAML.replace("model: {", "masking: \nmodel: {")
    assert load_recipe(write(tmp_path, text)).model.num_hidden_layers == 1


def test_null_removes_an_entry(tmp_path):
    path = write(tmp_path)
    recipe = load_recipe(
        path, ["phases.extension=null", "phases.pretrain.mixture.code=null", "data.sources.code=null"]
    )
    assert list(recipe.phases) == ["pretrain"]
    assert recipe.phases["pretrain"].mixture == MixtureConfig({"web": 1.0})
    assert list(recipe.data.sources) == ["web"]


def test_overrides_reach_into_dictionaries_and_add_to_them(tmp_path):
    new = "phases.decay={tokens: 1_280, decay_tokens: 1K, decay_shape: linear}"
    overrides = [
        "data.sources.web.store=elsewhere",
        "phases.extension.mixture.web=1",
        new,
        "phases.decay.mask_rate=.15",
    ]
    recipe = load_recipe(write(tmp_path), overrides)
    assert recipe.data.sources["web"].store == "elsewhere"
    assert list(recipe.phases) == ["pretrain", "extension", "decay"]
    assert (recipe.phases["decay"].mask_rate, recipe.phases["decay"].context_tokens) == (0.15, 32)


def test_init_from(tmp_path):
    assert load_recipe(write(tmp_path), ["init.from=runs/other"]).init.from_ == "runs/other"
    assert load_recipe(write(tmp_path), ["init.from=runs/other", "init.from=null"]).init.from_ is None


def test_interpolation(tmp_path, monkeypatch):
    monkeypatch.setenv("STORES", "/data")
    recipe = load_recipe(
        write(tmp_path, YAML.replace("{web: {store: store}", "{web: {store: '${oc.env:STORES}/web'}"))
    )
    assert recipe.data.sources["web"].store == "/data/web"


def test_interpolation_of_a_default(tmp_path):
    text = YAML.replace(
        "little", "${training.precision}-${optimizer.betas.1}-${phases.pretrain.warmup_tokens}"
    )
    text += "wandb: {project: p, tags: ['${init.method}']}\n"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.name == "auto-0.98-0"
    assert recipe.wandb.tags == ["copy"]


def test_words_of_pytorch_and_wandb(tmp_path):
    recipe = load_recipe(write(tmp_path), ["training.device=cuda", "wandb.mode=disabled", "wandb.project=p"])
    assert recipe.training.device == "gpu"
    assert recipe.wandb.mode == "disabled"


def test_a_dumped_recipe_loads_as_an_equal_one(tmp_path):
    overrides = [
        "init.from=somewhere",
        "phases.pretrain.mixture={web: 1, code: 2}",
        "phases.extension.mixture={web: 0.1, code: 0.7}",
        "phases.pretrain.batch_ramp={start_tokens: 64, tokens: 1K}",
        "wandb.tags=[a, b]",
        "optimizer.gradient_clip_norm=1",
        "run_folder=runs/{name}-second",
    ]
    recipe = load_recipe(write(tmp_path), overrides)
    assert recipe.run_folder == "runs/little-second"
    text = dump_recipe(recipe)
    assert load_recipe(write(tmp_path, text, "dumped.yaml")) == recipe
    assert dump_recipe(load_recipe(tmp_path / "dumped.yaml")) == text


@pytest.mark.parametrize("field", ["data", "phases", "model"])
def test_recipes_are_frozen(tmp_path, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(load_recipe(write(tmp_path)), field, None)


def test_a_file_on_top_of_the_recipe(tmp_path):
    """`include=FILE` is an override like any other: it wins over everything before it."""
    path = write(tmp_path, YAML)
    part = write(tmp_path, "model: {hidden_size: 16, intermediate_size: 24}\n", "part.yaml")
    overrides = ["model.hidden_size=32", f"include={part}", "model.intermediate_size=40"]
    model = load_recipe(path, overrides).model
    assert (model.hidden_size, model.intermediate_size) == (16, 40)
    with pytest.raises(ValueError, match=r"^nowhere\.yaml: there is no such file$"):
        load_recipe(path, ["include=nowhere.yaml"])
    broken = write(tmp_path, "model: {hidden_sizes: 16}\n", "broken.yaml")
    with pytest.raises(
        ValueError, match=r"broken\.yaml: model.hidden_sizes is not a field of a recipe; did you mean"
    ):
        load_recipe(path, [f"include={broken}"])
