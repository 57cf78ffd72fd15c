"""Where a run's initial weights come from: copied, tiled, transplanted, and never a second time."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.initial import initial_weights, plan_start
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.checkpoints.tiling import tile
from modernbert_train.cli import main
from modernbert_train.config import dump_recipe, load_recipe
from modernbert_train.convert import export_checkpoint
from modernbert_train.store.manifest import load_tokenizer_info
from modernbert_train.training.train import train
from tests.helpers import kill
from tests.helpers.recipes import make_tiny, skewed_documents
from tests.helpers.spawned import start
from tests.helpers.stores import make_store, make_tokenizer
from tests.helpers.weights import load_weights

REPOSITORY = Path(__file__).parents[2]
ONE_STEP = ["phases.extension=null", "phases.pretrain.batch_ramp=null", "phases.pretrain.tokens=2048"]
ONE_STEP += [
    "phases.pretrain.warmup_tokens=0",
    "phases.pretrain.learning_rate=1e-9",
    "optimizer.weight_decay=0",
]
LARGER = ["model.hidden_size=128", "model.num_attention_heads=4", "model.intermediate_size=160"]
LARGER += ["model.num_hidden_layers=6"]
DEEPER = ["model.num_hidden_layers=5"]  # the cheapest model that is larger, for whole runs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny recipe with four layers, which tiling can tell apart."""
    return make_tiny(tmp_path_factory.mktemp("tiny"), num_layers=4)


@pytest.fixture(scope="module")
def trained(tiny):
    """A run of the tiny recipe, all in its short context."""
    recipe = load_recipe(tiny, ["phases.extension=null", "phases.pretrain.tokens=40K"])
    return train(recipe)


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def first_loss(tiny, run, *overrides):
    """Loss of the first batch of a run, which hardly learns."""
    return losses(train(load_recipe(tiny, [*ONE_STEP, f"run_folder={run}", *overrides])))[0]


def test_initial_weights_are_those_of_tiling(tiny, trained, tmp_path):
    init = [f"init.from={trained}", "init.method=tile_edge", "init.rescale=false"]
    recipe = load_recipe(tiny, [*LARGER, *init])
    weights, _ = load_weights(trained)
    start = plan_start(recipe, load_tokenizer_info(recipe.data.tokenizer))
    expected = tile(weights, start.source.model, recipe.model, "tile_edge", rescale=False)
    run = train(load_recipe(tiny, [*LARGER, *init, *ONE_STEP, f"run_folder={tmp_path}/run"]))
    after = load_weights(run)[0]
    for name, weight in initial_weights(start).items():
        assert torch.equal(weight, expected[name])
        assert torch.allclose(weight, after[name], rtol=0, atol=1e-6)  # after a step at a rate of 1e-9


def test_a_tiled_model_starts_below_a_random_one(tiny, trained, tmp_path):
    random = first_loss(tiny, tmp_path / "random", *LARGER)
    for method in ("tile_middle", "tile_edge"):
        tiled = first_loss(tiny, tmp_path / method, *LARGER, f"init.from={trained}", f"init.method={method}")
        assert tiled < random - 0.5


def test_the_shapes_are_printed(tiny, trained, tmp_path, caplog, capsys):
    overrides = [*LARGER, f"init.from={trained}", "init.method=tile_middle"]
    assert main(["train", str(tiny), *overrides, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "made larger by tile_middle" in " ".join(shown.split())
    assert not [line for line in shown.splitlines() if len(line) > 80 and not line.startswith("weights from")]
    assert re.search(r"weights from .*step-00000021.pt \(step 21, 40,960 tokens\)|weights from .*\.pt", shown)
    assert "layers 0 to 5 start as layers 0 1 1 2 3 3" in shown
    assert re.search(r"layers\.\*\.attn\.Wqkv +192 x 64 -> 384 x 128 +tile_middle, 6", shown)
    assert re.search(r"tok_embeddings +256 x 64 -> 256 x 128 +tile_middle, 1", shown)
    assert "copied unchanged, 1" in shown  # the decoder's bias
    with caplog.at_level(logging.INFO):
        first_loss(tiny, tmp_path / "run", *overrides)
    plan = shown[shown.index("layers 0 to 5") :].strip()
    assert plan in "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def whole(tiny, tmp_path):
    """The tiny recipe with every field of the model: those that it leaves out would follow from `init.from`."""
    path = tmp_path / "whole.yaml"
    path.write_text(dump_recipe(load_recipe(tiny)))
    return path


def test_a_dry_run_without_source_weights_shows_the_rest(whole, capsys):
    assert main(["train", str(whole), "init.from=nowhere", "--dry-run"]) == 2
    shown = capsys.readouterr().out
    assert shown.startswith("not ready to train:\n  - init.from: nowhere: no such run folder")
    assert "learning rate" in shown
    assert "fill of the rows" in shown


def test_continued_pretraining_from_an_exported_folder(tiny, trained, tmp_path):
    exported = export_checkpoint(trained, tmp_path / "hf")
    from_run = first_loss(tiny, tmp_path / "from-run", f"init.from={trained}")
    from_folder = first_loss(tiny, tmp_path / "from-folder", f"init.from={exported}")
    assert from_folder == from_run
    assert abs(from_folder - sum(losses(trained)[-5:]) / 5) < 0.15
    assert not list((tmp_path / "from-folder").glob("**/*.safetensors"))


def test_differences_that_no_shape_shows_are_warned_of(tiny, trained, capsys):
    model = ["model.local_attention=64", "model.global_attn_every_n_layers=2"]
    overrides = [f"init.from={trained}", *model, "phases.pretrain.global_rope_theta=40_000"]
    assert main(["train", str(tiny), *overrides, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "model.local_attention: the weights were trained with 32, the recipe has 64",
        "model.global_attn_every_n_layers: the weights were trained with 3, the recipe has 2",
        "global_rope_theta: the weights were trained with 10,000, the first phase sets 40,000",
    ]


def test_the_dry_run_reports_a_folder_without_weights(whole, trained, tmp_path, capsys):
    exported = export_checkpoint(trained, tmp_path / "hf")
    (exported / "model.safetensors").unlink()
    assert main(["train", str(whole), f"init.from={exported}", "--dry-run"]) == 2
    expected = f"not ready to train: - init.from: {exported}: has neither model.safetensors nor"
    assert expected in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("vocab_size", "num_rows"), [(300, 320), (256, 256), (384, 384)])
def test_a_published_vocabulary_needs_no_transplant(tiny, trained, tmp_path, capsys, vocab_size, num_rows):
    """A vocabulary that is no multiple of 64 is padded; of the rows that no token has, a recipe may have any number."""
    exported = export_checkpoint(trained, tmp_path / "hf")
    weights = load_file(exported / "model.safetensors")
    for name in ("model.embeddings.tok_embeddings.weight", "decoder.bias"):
        weights[name] = torch.cat([weights[name], weights[name][:44]])
    save_file(weights, exported / "model.safetensors", {"format": "pt"})
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    overrides = [f"init.from={exported}", f"model.vocab_size={vocab_size}"]
    recipe = load_recipe(tiny, overrides)
    start = plan_start(recipe, load_tokenizer_info(recipe.data.tokenizer))
    rows = initial_weights(start)["model.embeddings.tok_embeddings.weight"]
    assert len(rows) == num_rows
    assert torch.equal(rows[:256], weights["model.embeddings.tok_embeddings.weight"][:256])
    assert main(["train", str(tiny), *overrides, "--dry-run"]) == 0
    assert "the vocabulary of 300 is padded to 320 rows" in capsys.readouterr().out


def other_tokenizer(folder):
    """The words of the tiny store under other ids, 21 of them spelt anew; and a store written with it."""
    make_tokenizer(folder / "tokenizer")
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    words = {f"w{n}": 5 + (n + 100) % 251 for n in range(5, 256)}
    new = {word if not 40 <= at <= 60 else f"new-{word}": at for word, at in words.items()}
    content["model"]["vocab"] = {token: at for token, at in vocabulary.items() if at < 5} | new
    file.write_text(json.dumps(content))
    moved = {number: words[f"w{number}"] for number in range(5, 256)}
    documents = {
        source: {
            "train": [[moved[token] for token in document] for document in skewed_documents(count, seed)],
        }
        for source, count, seed in (("web", 400, 1), ("code", 200, 2))
    }
    make_store(folder / "store", load_tokenizer_info(folder / "tokenizer"), documents)
    return [
        f"data.tokenizer={folder}/tokenizer",
        f"data.sources.web.store={folder}/store",
        f"data.sources.code.store={folder}/store",
    ]


def test_another_tokenizer_by_transplant(tiny, trained, tmp_path, capsys):
    other = other_tokenizer(tmp_path)
    random = first_loss(tiny, tmp_path / "random", *other)
    init = [f"init.from={trained}", "init.transplant=true"]
    transplanted = first_loss(tiny, tmp_path / "transplanted", *other, *init)
    assert transplanted < random - 1
    assert main(["train", str(tiny), *other, *init, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "tokens: 230 of 256 matched by string, 5 by role, 21 start as the mean" in shown
    assert re.search(r"decoder\.bias +256 -> 256 +transplanted, 1", shown)
    both = first_loss(tiny, tmp_path / "both", *other, *init, *LARGER, "init.method=tile_middle")
    assert both < random - 0.5
    assert main(["train", str(tiny), *other, f"run_folder={tmp_path}/run", init[0]]) == 2
    assert re.search(
        r"init.from: .* was trained with another tokenizer .*init.transplant=true", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init.from=nowhere"], "init.from: nowhere: no such run folder or checkpoint"),
        (["model.hidden_size=128"], "hidden_size: source 64, recipe 128; use the model section"),
        (
            ["model.hidden_size=128", "model.num_attention_heads=4"],
            "heads: source 2, recipe 4; use .* or set init.method=tile_middle",
        ),
        (["model.num_attention_heads=4"], "num_attention_heads: source 2, recipe 4; use the model section"),
        (
            ["model.num_hidden_layers=3", "init.method=tile_middle"],
            "num_hidden_layers: source 4, recipe 3: tiling",
        ),
        (["model.mlp=swiglu", "init.method=tile_edge"], "model.mlp: source geglu, recipe swiglu"),
    ],
)
def test_mismatches_are_named(tiny, trained, tmp_path, capsys, overrides, message):
    assert main(["train", str(tiny), f"run_folder={tmp_path}/run", f"init.from={trained}", *overrides]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["init.method=tile_middle", "init.transplant=true"])
def test_init_without_from(tiny, field):
    with pytest.raises(
        ValueError,
        match=rf"{field.split('=')[0]} is .*; set init.from to a run folder, a checkpoint or a Hugging",
    ):
        load_recipe(tiny, [field])


def test_nan_in_weights(tiny, trained, tmp_path, capsys):
    weights, info = load_weights(trained)
    weights["head.norm.weight"][3] = float("nan")
    shutil.copy(trained / "tokenizer.json", tmp_path)
    save_weights(tmp_path, weights, info)
    assert main(["train", str(tiny), f"run_folder={tmp_path}/run", f"init.from={tmp_path}"]) == 2
    assert "head.norm.weight holds NaN or infinity" in capsys.readouterr().err


def test_a_run_cannot_resume_from_weights_alone(tiny, trained, tmp_path, capsys):
    """What import and average make is begun with, and not gone on from: there is no optimizer's state."""
    shutil.copy(trained / "tokenizer.json", tmp_path)
    save_weights(tmp_path, *load_weights(trained))
    assert main(["train", str(tiny), f"run_folder={tmp_path}"]) == 2
    expected = (
        rf"run_folder is {tmp_path}, in which step-\d+\.pt holds weights .*; name .* init\.from={tmp_path}"
    )
    assert re.search(expected, capsys.readouterr().err)


def test_a_restart_does_not_need_the_source(tiny, trained, tmp_path):
    """Stopped after a checkpoint, with what it began from gone, a run goes on as if it had not been stopped."""
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    overrides = [*DEEPER, f"init.from={source}", "init.method=tile_middle", "phases.extension=null"]
    overrides += ["phases.pretrain.tokens=16K"]
    undisturbed = train(load_recipe(tiny, [*overrides, f"run_folder={tmp_path}/undisturbed"]))
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for path in list_checkpoints(run)[1:]:
        path.unlink()
    shutil.rmtree(source)
    train(load_recipe(tiny, [*overrides, f"run_folder={run}"]))
    weights, expected = load_weights(run)[0], load_weights(undisturbed)[0]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_killed_run_applies_init_only_once(trained, tmp_path):
    """As `test_a_restart_does_not_need_the_source`, but killed at random moments, with the source still there."""
    recipe = make_tiny(tmp_path)
    options = [f"init.from={trained}", "init.method=tile_middle", "phases.extension=null", "--kills", "3"]
    arguments = [str(recipe), *DEEPER, "training.save_every_tokens=2K", *options]
    done = start(kill.main, arguments).finish(500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "all weights equal, bit for bit" in done.stdout
