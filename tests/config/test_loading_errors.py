"""Every mistake in a recipe and its error message."""

import re

import pytest

from modernbert_train.config import load_recipe
from tests.helpers.little_recipe import YAML, write


def message(path, overrides=()):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is looked at
        load_recipe(path, list(overrides))
    text = str(caught.value)
    assert "omegaconf" not in text.lower()
    return text


def with_line(path, old, new):
    assert old in YAML
    return write(path, YAML.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: little", "nam: little", "nam is not a field of a recipe; did you mean name?"),
        (
            "hidden_size: 8",
            "hiden_size: 8",
            "model.hiden_size is not a field of a recipe; did you mean hidden_size?",
        ),
        ("tokens: 4K", "token: 4K", "phases.pretrain.token is not a field of a recipe; did you mean tokens?"),
        (
            "source: python",
            "sources: x",
            "data.sources.code.sources is not a field of a recipe; did you mean source?",
        ),
        (
            "tokens: 4K",
            "batch_ramp: {start: 1}",
            "phases.pretrain.batch_ramp.start is not a field of a recipe; did you mean start_",
        ),
        ("name: little", "gradient_clip_norm: 1", "; did you mean optimizer.gradient_clip_norm?"),
        ("name: little", "mask_rate: 1", "; did you mean phases.NAME.mask_rate?"),
        (
            "num_streams: 2",
            "zzz: 2",
            "data.zzz is not a field of a recipe; the fields of this section are tokenizer, sources, num_streams,",
        ),
        ("num_streams: 2", "on: 2", "data.True: the key True is not text; put it in quotes"),
        ("  num_streams: 2", "  init: {from_: 2}", "data.init is not a field"),
    ],
)
def test_unknown_keys(tmp_path, old, new, expected):
    path = with_line(tmp_path, old, new)
    assert f"{path}: " in message(path)
    assert expected in message(path)


@pytest.mark.parametrize(
    ("override", "current"),
    [
        ("data.streams=2", "num_streams?"),
        ("data.window_rows=4", "num_streams, shuffle_rows, "),  # no similar name: all fields are listed
        ("data.canonical_nodes=1", "num_canonical_nodes?"),
        ("data.warn_passes=3", "warn_epochs?"),
        ("training.attention_backend=cpu", "varlen, torch"),
    ],
)
def test_earlier_names_of_fields_lead_to_the_current_ones(tmp_path, override, current):
    assert current in message(write(tmp_path), [override])


def test_unknown_keys_on_the_command_line(tmp_path):
    path = write(tmp_path)
    text = message(
        path, ["phases.pretrain.learning_rat=1", "optimizer.epsilon=1", "lr.x=1", "init.from_=x"]
    ).splitlines()
    assert text[0] == f"{path}: 4 problems"
    start = "  - command line: "
    assert (
        text[1]
        == f"{start}phases.pretrain.learning_rat is not a field of a recipe; did you mean learning_rate?"
    )
    assert text[2].startswith(f"{start}optimizer.epsilon is not a field of a recipe; did you mean eps?")
    assert text[3].startswith(f"{start}lr is not a field of a recipe; the fields of this section are name, ")
    assert text[4] == f"{start}init.from_ is not a field of a recipe; did you mean from?"


def test_unknown_keys_in_an_included_file_name_that_file(tmp_path):
    part = write(tmp_path, "model: {hidden: 8}", "parts/model.yaml")
    text = message(write(tmp_path, "include: parts/model.yaml\n" + YAML + "extra: 1\n"))
    assert f"{part}: model.hidden is not a field" in text
    assert "little.yaml: extra is not a field" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("phases.pretrian.tokens=1K", "there is no phases.pretrian; did you mean pretrain?"),
        (
            "phases.decay=null",
            "there is no phases.decay; existing: pretrain, extension (to add it: phases.decay={...}",
        ),
        ("data.sources.wbe.store=x", "there is no data.sources.wbe; did you mean web?"),
        ("seed.x=1", "seed.x=1"),
        ("seed", "'seed' is not an override; write key=value, such as optimizer.eps=1e-6"),
        ("=1", "'=1' is not an override"),
        ("model..x=1", "is not an override"),
        ("init.from=", "'init.from=' has no value; write init.from=null for none"),
        ("optimizer.betas=[0.9", "the value of 'optimizer.betas=[0.9' is not readable as YAML: "),
        ("name=a: b", "the value of 'name=a: b' is not readable as YAML: "),
        ("name=x\nseed: 3", "is not a single YAML value"),
        ("name=${", "is not readable as YAML: "),
        ("model=3", "model is 3, expected a section with keys of its own"),
        (
            "phases.pretrain.mixture=[web]",
            "phases.pretrain.mixture is ['web'], expected a section with keys of its own",
        ),
    ],
)
def test_broken_overrides(tmp_path, override, expected):
    if override == "seed.x=1":
        expected = "seed is {'x': 1}, expected a whole number"
    text = message(write(tmp_path), [override])
    assert text.startswith("command line: ")
    assert expected in text
    assert "\n" not in text.replace(override, "")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("phases.pretrain.learning_rate=fast", "phases.pretrain.learning_rate is 'fast', expected a number"),
        (
            "phases.pretrain.decay_shape=sqrt",
            "phases.pretrain.decay_shape is 'sqrt', expected one of 1-sqrt, linear, cosine",
        ),
        (
            "phases.pretrain.tokens=1.5",
            "phases.pretrain.tokens is 1.5, expected a whole number of tokens such as 8192",
        ),
        (
            "phases.pretrain.tokens=-5M",
            "phases.pretrain.tokens is '-5M', expected a whole number of tokens such as 8192",
        ),
        ("phases.pretrain.mixture.web=lots", "phases.pretrain.mixture.web is 'lots', expected a number"),
        (
            "optimizer.betas=[0.9, 0.9, 0.9]",
            "optimizer.betas is [0.9, 0.9, 0.9], expected a list of 2 numbers",
        ),
        ("optimizer.betas=0.9", "optimizer.betas is 0.9, expected a list of 2 numbers"),
        (
            "optimizer.gradient_clip_norm=yes",
            "optimizer.gradient_clip_norm is true, expected a number or null",
        ),
        ("training.compile=3", "training.compile is 3, expected true or false"),
        ("training.device=tpu", "training.device is 'tpu', expected one of auto, cpu, gpu"),
        ("model.hidden_size=7.5", "model.hidden_size is 7.5, expected a whole number"),
        ("wandb.tags=one", "wandb.tags is 'one', expected a list of texts"),
        ("name=[a]", "name is ['a'], expected text"),
        ("seed=null", "seed is null, expected a whole number"),
        ("name=null", "name is missing, expected text"),
        ("init.from=[a]", "init.from is ['a'], expected text or null"),
        ("name='???'", "name is '???', a placeholder to be filled in, expected text"),
        ("wandb.tags=['???']", "wandb.tags is ['???'], a placeholder to be filled in, expected a list"),
    ],
)
def test_values_of_the_wrong_type(tmp_path, override, expected):
    text = message(write(tmp_path), [override])
    assert text.startswith("command line: " + expected)
    assert "\n" not in text


def test_all_values_of_the_wrong_type_are_reported_at_once(tmp_path):
    path = with_line(tmp_path, "learning_rate: 1e-3", "learning_rate: high")
    text = message(path, ["optimizer.eps=small", "phases.extension.tokens=all"]).splitlines()
    assert text[0] == f"{path}: 3 problems"
    assert text[1].startswith("  - command line: phases.extension.tokens is 'all', ")
    assert (
        text[2] == f"  - {path}: phases.pretrain.learning_rate is 'high', expected a number"
    )  # not again for extension
    assert text[3] == "  - command line: optimizer.eps is 'small', expected a number"


def test_missing_fields(tmp_path):
    text = "name: little\ndata: {sources: {web: {source: x}, code: {store: s}}}\n"
    text += "phases: {a: {batch_ramp: {start_tokens: 1}}, b: {tokens: 1K}}"
    text = re.findall(r"yaml: (\S+) is missing", message(write(tmp_path, text)))
    assert sorted(text) == [
        "data.sources.web.store",
        "data.tokenizer",
        "phases.a.batch_ramp.tokens",
        "phases.a.batch_tokens",
        "phases.a.learning_rate",
        "phases.a.mixture",
        "phases.a.tokens",
    ]


def test_values_that_do_not_fit_together_are_reported_at_once(tmp_path):
    path = write(tmp_path)
    text = message(path, ["model.local_attention=7", "phases.extension.context_tokens=64"]).splitlines()
    assert text[0] == f"{path}: 2 problems"
    assert text[1].startswith("  - model.local_attention is 7: must be even")
    assert text[2].startswith("  - phases.extension.context_tokens is 64, more than row_tokens (32)")


def test_files_that_cannot_be_read(tmp_path):
    assert message(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: there is no such file"
    path = write(tmp_path, "include: [a.yaml, gone.yaml]\n" + YAML)
    write(tmp_path, "", "a.yaml")
    assert message(path) == f"{tmp_path}/gone.yaml (included by {path}): there is no such file"
    assert "not readable as YAML: " in message(write(tmp_path, "a: [1"))
    assert "found duplicate key" in message(write(tmp_path, "seed: 1\nseed: 2"))
    assert "a recipe is a mapping of sections" in message(write(tmp_path, "- 1"))
    path.write_bytes(b"name: \xff\xfe")
    assert "not readable as YAML: " in message(path)


def test_broken_includes(tmp_path):
    assert "include is 3, expected the path of a YAML file or a list" in message(
        write(tmp_path, "include: 3")
    )
    write(tmp_path, "include: ../b.yaml", "parts/a.yaml")
    path = write(tmp_path, "include: parts/a.yaml", "b.yaml")
    assert message(path).startswith(f"include cycle: {path} -> {tmp_path}/parts/a.yaml -> {path}; remove one")


def test_failing_interpolation(tmp_path):
    text = message(write(tmp_path), ["name='${nothing}'"])
    assert "name has an interpolation that fails: Interpolation key 'nothing' not found; name a field" in text
    for follows in ("model.vocab_size", "phases.extension.row_tokens", "data.num_workers.x"):
        text = message(write(tmp_path, YAML.replace("vocab_size: 128, ", "")), [f"name='${{{follows}}}'"])
        assert text.startswith(f"{tmp_path}/little.yaml: name has an interpolation that fails: ")


def test_a_file_can_remove_only_existing_entries(tmp_path):
    text = YAML + "  # its fields are commented out\n  decay:\n"
    assert "there is no phases.decay; " in message(write(tmp_path, text))


def test_a_missing_field_is_reported_where_its_section_is_written(tmp_path):
    path = with_line(tmp_path, "    batch_tokens: 128\n", "")
    assert message(path, ["phases.pretrain.tokens=5K"]).startswith(
        f"{path}: phases.pretrain.batch_tokens is missing"
    )
    text = message(write(tmp_path), ["phases.decay={decay_tokens: 1K}"])
    assert text.startswith("command line: phases.decay.tokens is missing, expected a whole number")
