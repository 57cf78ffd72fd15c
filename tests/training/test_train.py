"""Whole runs of the tiny recipe, in this process."""

import json
import logging
import math
import re
import shutil
import subprocess
from contextlib import closing

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.rewind import step_of
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.convert import import_folder
from modernbert_train.data.inputs import open_inputs, plan_rows
from modernbert_train.planning.source_stats import phase_stats, whole_run
from modernbert_train.schedule import build_schedule
from modernbert_train.training.train import train
from tests.helpers.kill import read_metrics
from tests.helpers.recipes import make_tiny
from tests.helpers.stores import make_tokenizer
from tests.helpers.weights import load_weights

# The loss of every second step. A refactoring must not change it; a deliberate change of the numerics replaces it.
GOLDEN_LOSSES = [
    5.55399, 5.34954, 4.95159, 4.41772, 4.14255, 4.02529, 3.97328, 3.94310, 3.93692, 3.92821, 3.93269,
]  # fmt: skip
# A single phase of two steps.
SHORT = ["phases.extension=null", "phases.pretrain.batch_ramp=null", "phases.pretrain.tokens=4K"]
SHORT += ["phases.pretrain.warmup_tokens=1K"]
# For tests to which the model does not matter.
SHALLOW = "model.num_hidden_layers=1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny recipe with four layers, two of them global: the model of the golden losses."""
    return make_tiny(tmp_path_factory.mktemp("tiny"), num_layers=4)


@pytest.fixture(scope="module")
def finished(tiny):
    recipe = load_recipe(tiny)
    return train(recipe), recipe


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "eval" in line]


def test_golden_loss_curve(finished):
    steps, _ = metrics(finished[0])
    assert [line["loss"] for line in steps[::2]] == pytest.approx(GOLDEN_LOSSES, rel=2e-4)


def test_a_run_follows_its_recipe(finished):
    run, recipe = finished
    steps, evaluations = metrics(run)
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert [line["batch_tokens"] for line in steps[:5]] == [1024] * 4 + [2048]
    boundary = next(at for at, line in enumerate(steps) if line["phase"] == "extension")
    assert {line["context_tokens"] for line in steps[:boundary]} == {64}
    assert {line["context_tokens"] for line in steps[boundary:]} == {256}
    assert {line["global_rope_theta"] for line in steps[boundary:]} == {160_000}
    assert steps[0]["lr"] == pytest.approx(5e-3 * 512 / 4_000)
    assert steps[boundary - 1]["lr"] == 5e-3
    assert steps[-1]["lr"] < 2e-4
    assert min(line["fill"] for line in steps) > 0.88  # shuffle blocks of 32 rows; real ones have thousands
    assert [line["phase"] for line in evaluations] == ["pretrain", "extension"]
    assert set(evaluations[0]["eval"]) == {"web", "code"}
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert load_recipe(run / "recipe.yaml") == recipe
    launch = json.loads((run / "provenance.json").read_text())["launches"][0]
    assert launch["packages"]["torch"] == torch.__version__.split("+")[0]


def test_checkpoints_record_their_position(finished):
    run, _ = finished
    infos = [read_info(path) for path in list_checkpoints(run)]
    assert [info.phase for info in infos if info.keep] == ["pretrain", "extension"]
    assert infos[-1].tokens == infos[-1].total_tokens
    assert (infos[0].context_tokens, infos[0].global_rope_theta) == (64, 10_000)
    assert (infos[-1].context_tokens, infos[-1].global_rope_theta) == (256, 160_000)


def test_a_finished_run_is_left_alone(finished, caplog):
    run, recipe = finished
    before = (run / "metrics.jsonl").read_text()
    with caplog.at_level(logging.INFO):
        train(recipe)
    assert "is finished" in caplog.text
    assert (run / "metrics.jsonl").read_text() == before


def test_a_damaged_checkpoint_is_skipped_and_trained_again(tiny, tmp_path, finished, caplog):
    recipe = load_recipe(tiny, [f"run_folder={tmp_path}/run"])
    run = shutil.copytree(finished[0], tmp_path / "run")
    newest = list_checkpoints(run)[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    with caplog.at_level(logging.ERROR):
        train(recipe)
    assert f"CHECKPOINT SKIPPED: {newest}: damaged" in caplog.text
    weights, expected = load_weights(run)[0], load_weights(finished[0])[0]
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for path in list_checkpoints(run):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its \d+ checkpoint\(s\) can be read"):
        train(recipe)


def test_a_run_started_from_weights_has_a_new_clock(tiny, tmp_path, finished):
    source = list_checkpoints(finished[0])[-1]
    recipe = load_recipe(tiny, [f"run_folder={tmp_path}/run", f"init.from={source}", "phases.extension=null"])
    steps, _ = metrics(train(recipe))
    last = metrics(finished[0])[0][-1]
    assert (steps[0]["step"], steps[0]["phase"]) == (1, "pretrain")
    assert steps[0]["loss"] < last["loss"] + 0.5


def test_wandb_offline(tiny, tmp_path, caplog, monkeypatch):
    secrets = {
        "WANDB_API_KEY": "0123456789abcdef" * 3,
        "HF_TOKEN": "hf_" + "x1" * 17,
        "REMOTE": "ghp_" + "y2" * 18,
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    remote = f"https://{secrets['REMOTE']}:x-oauth-basic@github.com/a/b"
    for command in ("git init -q .", f"git remote add origin {remote}"):
        subprocess.run(command.split(), check=True)
    overrides = [f"run_folder={tmp_path}/run", "wandb.project=tests", "wandb.mode=offline"]
    with caplog.at_level(logging.INFO):
        run = train(load_recipe(tiny, [*SHORT, *overrides]))
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    number = (run / "wandb_id").read_text()
    assert f"to upload this run to W&B: wandb sync --id {number} --yes {folder}" in caplog.text
    written = b"".join(file.read_bytes() for file in run.rglob("*") if file.is_file()) + caplog.text.encode()
    assert b"git_commit" in written
    assert [name for name, value in secrets.items() if value.encode() in written] == []


@pytest.mark.parametrize("bar", ["true", "false"])
def test_progress_is_logged_in_lines_without_a_terminal(tiny, tmp_path, capsys, bar):
    train(load_recipe(tiny, [*SHORT, f"run_folder={tmp_path}/run", f"training.progress_bar={bar}"]))
    first, last, held_out = capsys.readouterr().err.splitlines()
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ pretrain: step 1/2, 50% of the tokens, loss 5\.5", first
    )
    assert re.search(r"context 64, [\d,]+ tokens/s, 0:00:\d\d left, waiting for data \d+%$", first)
    assert " pretrain: step 2/2, 100% of the tokens, " in last
    assert re.search(
        r"held out after 4,096 tokens \(pretrain\): .* web 5\.\d{3} \(.*%\), code \d\.\d{3}", held_out
    )


def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path):
    recipe = load_recipe(tiny, [f"run_folder={tmp_path}/run", "phases.pretrain.learning_rate=1e30"])
    expected = r"loss is (nan|inf) at step \d+.*lower learning_rate.*gradient_clip_norm\. No checkpoint was saved yet"
    with pytest.raises(FloatingPointError, match=expected):
        train(recipe)
    steps, _ = metrics(tmp_path / "run")
    assert len(steps) == 1
    assert math.isfinite(steps[0]["loss"])
    assert not list_checkpoints(tmp_path / "run")


def test_a_run_that_goes_back_writes_the_same_lines(tiny, tmp_path):
    """Also the means over several steps, of which some were trained before the checkpoint."""
    options = [
        "phases.extension=null",
        "training.log_every_steps=4",
        "training.save_every_tokens=6K",
        SHALLOW,
    ]
    recipe = load_recipe(tiny, [*options, f"run_folder={tmp_path}/run", "training.keep_checkpoints=9"])
    run = train(recipe)
    lines, weights = read_metrics(run), load_weights(run)[0]
    step = step_of(list_checkpoints(run)[0])
    assert step % 4
    assert main(["rewind", str(run), "--step", str(step)]) == 0
    assert len(read_metrics(run)) < len(lines)
    train(recipe)
    assert read_metrics(run) == lines
    assert all(torch.equal(weight, weights[name]) for name, weight in load_weights(run)[0].items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sources.web.store=nowhere"], "store: nowhere does not exist"),
        (["data.tokenizer=nowhere"], "tokenizer: nowhere.* does not exist"),
        (["model.vocab_size=192"], "model.vocab_size is 192, too small .* with 256 ids; set it to 256"),
        (["data.sources.web.source=wbe"], 'data.sources.web: .* no source "wbe".*did you mean web'),
        (["init.from=nowhere"], "nowhere: no such run folder or checkpoint"),
        (["training.device=gpu"], "training.device is gpu, but torch finds no CUDA device"),
        (["training.attention_backend=flash2"], "training.attention_backend is 'flash2'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_without_a_traceback(tiny, tmp_path, capsys, overrides, message):
    if torch.cuda.is_available() and overrides == ["training.device=gpu"]:
        pytest.skip("this machine has a GPU")
    status = main(["train", str(tiny), f"run_folder={tmp_path}/run", *overrides])
    error = capsys.readouterr().err
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in error
    assert re.search(message, line)


def test_another_tokenizer_than_the_stores(tiny, tmp_path, capsys):
    make_tokenizer(tmp_path / "other", num_words=100)
    assert main(["train", str(tiny), f"run_folder={tmp_path}/run", f"data.tokenizer={tmp_path}/other"]) == 2
    assert "was made with another tokenizer" in capsys.readouterr().err


def test_another_architecture_than_the_run_began_with(tiny, finished, capsys):
    assert main(["train", str(tiny), "model.num_hidden_layers=3", "phases.extension.tokens=20K"]) == 2
    assert "model.num_hidden_layers was 4, is 3" in capsys.readouterr().err


def test_weights_of_another_shape(tiny, tmp_path, finished, capsys):
    overrides = [f"run_folder={tmp_path}/run", f"init.from={finished[0]}", "model.intermediate_size=128"]
    assert main(["train", str(tiny), *overrides]) == 2
    expected = (
        r"init.from: .*\.pt does not fit .*: model.intermediate_size: source 96, recipe 128; use the model section "
        r"of the source, or set init.method=tile_middle to start a larger model from it"
    )
    assert re.search(expected, capsys.readouterr().err)


def test_weights_of_equal_shapes_and_another_architecture(tiny, tmp_path, finished, capsys):
    overrides = [f"run_folder={tmp_path}/run", f"init.from={finished[0]}", "model.mlp=swiglu"]
    assert main(["train", str(tiny), *overrides]) == 2
    expected = (
        r"init.from: .*\.pt does not fit .*model: model.mlp: source geglu, recipe swiglu; use the model"
    )
    assert re.search(expected, capsys.readouterr().err)


BERT = ["model.norm_placement=post", "model.mlp=gelu", "model.positions=learned", "model.bias=true"]
BERT += ["model.global_attn_every_n_layers=1", "model.norm_eps=1e-12", "model.max_position_embeddings=256"]
BERT += [f"model.{place}_dropout=0.1" for place in ("embedding", "attn_out", "mlp_out")]
BERT += ["model.num_hidden_layers=2"]


def test_bert_trains_on_the_same_batches_and_is_exported(tiny, tmp_path, finished, caplog):
    run = train(load_recipe(tiny, [*BERT, f"run_folder={tmp_path}/run"]))
    (steps, evaluations), (beside, _) = metrics(run), metrics(finished[0])
    assert [line["batch_crc32"] for line in steps] == [line["batch_crc32"] for line in beside]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert evaluations[-1]["eval"]["web"]["loss"] < steps[0]["loss"] - 1
    assert main(["export", str(run), f"{tmp_path}/hf"]) == 0
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "hf")) is BertForMaskedLM
    imported = import_folder(tmp_path / "hf", tmp_path / "imported")
    recipe = [*BERT, *SHORT, "phases.pretrain.context_tokens=256", f"init.from={imported}"]
    with caplog.at_level(logging.WARNING):
        again, _ = metrics(train(load_recipe(tiny, [*recipe, f"run_folder={tmp_path}/again"])))
    assert again[0]["loss"] < steps[0]["loss"] - 1
    assert "were trained with" not in caplog.text  # no RoPE theta is used


def test_a_model_that_transformers_does_not_have_trains(tiny, tmp_path, capsys):
    switches = ["model.norm=rmsnorm", "model.parallel_block=true", "model.positions=none", "model.mlp=swiglu"]
    run = train(load_recipe(tiny, [*SHORT, *switches, f"run_folder={tmp_path}/run"]))
    assert metrics(run)[0][-1]["loss"] < metrics(run)[0][0]["loss"]
    assert main(["evaluate", str(run)]) == 0
    assert main(["export", str(run), f"{tmp_path}/hf"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "no class of Transformers computes this model" in line


def test_dry_run_reads_the_stores_and_measures_the_cpu(tiny, capsys):
    assert main(["train", str(tiny), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny: ")
    here = r" time here about \S+ (s|minutes) on \d+ cores? of this CPU, at [\d,]{2,} tokens/s \(from a few steps"
    assert re.search(here, " ".join(text.split()))
    assert re.search(r"^web +pretrain +66.67% .*\n +extension .*\n +whole run", text, re.MULTILINE)
    assert "fill of the rows" in text
    assert "WARNING" not in text
    options = ["data.warn_epochs=0.5", "--tokens-per-second", "1000"]
    assert main(["train", str(tiny), "--dry-run", *options]) == 0
    text = capsys.readouterr().out
    assert re.search(r"WARNING +source web is repeated 0\.\d+ times over the run", text)
    assert "time here" not in text


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.sources.web.store=nowhere", "store: nowhere does not exist"),
        ("data.tokenizer=nowhere", "tokenizer: nowhere does not exist"),
        ("model.vocab_size=192", "model.vocab_size is 192, too small for the tokenizer"),
        ("training.device=gpu", "training.device is gpu, but torch finds no CUDA device"),
        (
            "training.attention_backend=flash2",
            "training.attention_backend is 'flash2': it needs a CUDA device",
        ),
    ],
)
def test_dry_run_of_what_cannot_train(tiny, monkeypatch, capsys, override, problem):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["train", str(tiny), override, "--dry-run"]) == 2
    problems, text = capsys.readouterr().out.split("\n\n", 1)
    assert problems.startswith("not ready to train:\n  - ")
    assert problem in " ".join(problems.split())
    assert max(map(len, problems.splitlines())) <= 80
    assert text.startswith("tiny: ")
    assert "time here" not in text


@pytest.mark.parametrize(
    "mixture", ["{epochs: {web: 1, code: 2}}", "{temperature: 0.2}", "{epochs: {code: 1}}"]
)
def test_the_run_reads_what_the_dry_run_shows(tiny, tmp_path, mixture, caplog):
    caplog.set_level(logging.INFO)
    options = [
        f"phases.pretrain.mixture={mixture}",
        f"run_folder={tmp_path}/run",
        "data.warn_epochs=0.3",
        SHALLOW,
    ]
    recipe = load_recipe(tiny, options)
    plan, inputs = build_schedule(recipe), open_inputs(recipe)
    with closing(inputs.reader):
        planned = whole_run(phase_stats(plan, plan_rows(recipe, plan, inputs)))
    read = metrics(train(recipe))[0][-1]["source_tokens"]
    total = sum(read.values())
    assert total == pytest.approx(sum(part.tokens for part in planned.values()), rel=0.03)
    for name, tokens in read.items():
        # Less than a shuffle block of each stream is read, and a block of documents is a large part of it.
        assert tokens / total == pytest.approx(planned[name].share if name in planned else 0, abs=0.08)
    for name, part in planned.items():
        assert part.epochs == pytest.approx(part.tokens / inputs.train[name].num_tokens, rel=1e-3)
        warned = f"WARNING: source {name} is repeated {part.epochs:.3g} times" in caplog.text
        assert warned == (part.epochs > 0.3)
    assert "phase pretrain reads " in caplog.text
