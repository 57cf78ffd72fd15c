"""User mistakes, end to end: one line with field, value and remedy, status 2, no traceback, no hang.

Other tests cover single fields (tests/config), broken corpora (tests/data_prep), and stores and tokenizers that do not
match (tests/training/test_train.py).
"""

import json
import os
import re
import shutil
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main as prepare
from data_prep.tokenize.encoding import load_tokenizer
from data_prep.tokenizer import save_tokenizer, train_tokenizer
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.data.inputs import open_inputs, plan_rows
from modernbert_train.schedule import build_schedule
from modernbert_train.store.manifest import load_manifest, load_tokenizer_info
from tests.helpers import spawned
from tests.helpers.epochs import pieces_of, plan_of_an_epoch, read_epoch
from tests.helpers.launching import read_steps, wait_for_steps
from tests.helpers.recipes import TINY, make_tiny, skewed_documents
from tests.helpers.stores import make_store, make_tokenizer


def make_many_shards(folder: Path) -> Path:
    """Write the tiny recipe with many small shards and short shuffle blocks, of which each stream reads several."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    documents = {"train": skewed_documents(400, 1), "valid": skewed_documents(20, 3)}
    sources = {"web": documents, "code": documents}
    make_store(folder / "store", tokenizer, sources, block_documents=1, shard_bytes=2_048)
    recipe = folder / "many.yaml"
    text = TINY.format(folder=folder).replace("shuffle_rows: 32", "shuffle_rows: 8")
    text = text.replace("tokens: 24K", "tokens: 64K").replace("tokens: 4K}", "tokens: 8K}")
    text = text.replace("row_tokens: 256", "row_tokens: 64").replace(
        "context_tokens: 256", "context_tokens: 64"
    )
    recipe.write_text(text)
    return recipe


def shards_read(recipe_path: Path, streams: range, shuffle_blocks: range) -> set[int]:
    """Return the shards of source web that these streams read in these shuffle blocks of the first phase."""
    recipe = load_recipe(recipe_path)
    inputs = open_inputs(recipe)
    with closing(inputs.reader):
        plan = plan_rows(recipe, build_schedule(recipe), inputs)[0].plan
    assert plan.num_sequences == plan.num_streams
    return {
        inputs.train["web"].shard_of(block)
        for stream in streams
        for index in shuffle_blocks
        for source, block in plan.shuffle_block(stream, index).blocks
        if source == "web"
    }


def truncate(file: Path) -> bytes:
    """Cut a file in half; return its previous content."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return whole


def the_error(capture) -> str:
    """Return the single error line that a command has printed."""
    text = capture.readouterr().err
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_streams: 4", "steams: 4", "tiny.yaml: data.steams is not a field of a recipe; did you mean num_streams?"),
        ("num_streams: 4", "num_streams: many", "tiny.yaml: data.num_streams is 'many', expected a whole number"),
        ("name: tiny", "name: tiny\ninclude: gone.yaml", r"gone.yaml \(included by .*tiny.yaml\): there is no such"),
        ("row_tokens: 256", "row_tokens: 128", r"context_tokens is 256, more than row_tokens \(128\), .*raise"),
        ("batch_tokens: 2048", "batch_tokens: 2000", r"batch_tokens is 2000, not .* 1024, .*; use .* 1024 or 2048"),
        ("micro_batch_tokens: 512", "micro_batch_tokens: 300", r"micro_batch_tokens is 300, not .*; use 256 or 512"),
        ("{web: 2, code: 1}", "{web: 2, code: 0}", r"mixture\.code is 0\.0: must be .* above 0, or null"),
        ("{web: 2, code: 1}", "{web: 2, cod: 1}", r"mixture names 'cod', which is not in .*; did you mean code\?"),
        ("{web: 2, code: 1}", "{epochs: {web: -1}}", r"epochs\.web is -1\.0: must be .* above 0"),
        ("{web: 2, code: 1}", "{web: 2, temperature: 1}", r"mixture has shares and temperature: .*; keep one"),
        ("{web: 2, code: 1}", "{temperature: 5}", r"temperature is 5\.0: must be .* write 1/T"),
        ("num_streams: 4", "num_streams: 4\n  skip: {steps: [14]}", r"skip\.steps has 14, the last step of phase "),
    ],
)  # fmt: skip
def test_a_recipe_with_a_mistake(tiny, tmp_path, capsys, old, new, message):
    text = tiny.read_text()
    assert old in text
    (tmp_path / "tiny.yaml").write_text(text.replace(old, new))
    assert main(["train", str(tmp_path / "tiny.yaml")]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert all(line.startswith("error: ") for line in error.splitlines())
    assert re.search(message, error)


def test_two_stores_with_different_tokenizers(tiny, tmp_path, capsys):
    """The error names the store that does not match, and the fingerprints, before anything is computed."""
    other = make_tokenizer(tmp_path / "other", num_words=100)
    make_store(tmp_path / "second", other, {"code": {"train": [[5, 6, 7]] * 9}})
    assert main(["train", str(tiny), f"data.sources.code.store={tmp_path}/second", "run_folder=run"]) == 2
    assert re.fullmatch(
        rf"data\.tokenizer is .* \(fingerprint .*\), but the store {tmp_path}/second was made with another tokenizer "
        rf"\(fingerprint {other.fingerprint[:12]}\); use the copy of that tokenizer in the "
        r"store, or tokenize again with yours",
        the_error(capsys),
    )
    assert not Path("run").exists()


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_tokenizer_whose_files_disagree(tiny, tmp_path, capsys, options):
    """What an export of the run could not mend is asked before anything is read."""
    make_tokenizer(tmp_path / "other")
    content = json.loads((tmp_path / "other/tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "other/tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert main(["train", str(tiny), *options, f"data.tokenizer={tmp_path}/other", "run_folder=run"]) == 2
    output = " ".join("".join(capsys.readouterr()).split())
    assert "add_prefix_space is true in tokenizer_config.json and false in tokenizer.json, so" in output
    assert not Path("run").exists()


def test_overrides_before_and_after_options(tiny, capsys):
    assert main(["train", str(tiny), "seed=3", "--dry-run", "run_folder=elsewhere"]) == 0
    assert re.search(r"run folder +elsewhere, seed 3", capsys.readouterr().out)
    assert main(["train", str(tiny), "--dry-run", "optimizer.epsilon=1"]) == 2
    assert the_error(capsys).startswith(
        "command line: optimizer.epsilon is not a field of a recipe; did you mean"
    )


def test_a_run_folder_that_cannot_be_created(tiny, capsys):
    Path("file").touch()
    assert main(["train", str(tiny), "run_folder=file/run"]) == 2
    assert re.fullmatch(
        r"run_folder is file/run, which cannot be created \(.*\); choose a folder .*", the_error(capsys)
    )


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_damaged_index_of_a_split(tmp_path, capsys, content):
    recipe = make_tiny(tmp_path)
    index = tmp_path / "store/code/train/index.json"
    index.unlink() if content is None else index.write_text(content)
    assert main(["train", str(recipe)]) == 2
    found = "is missing" if content is None else f"has {len(content)} bytes"
    assert re.match(
        f"store: {index} {found}, the manifest says .*; copy or prepare it again", the_error(capsys)
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["export", "started", "out"], 2, r"started: no checkpoint in it; expected started/checkpoints/step-\*\.pt"),
        (["evaluate", "started"], 2, r"started: no checkpoint in it; expected started/checkpoints/step-\*\.pt"),
        (["report", "started"], 2, r"started/metrics\.jsonl does not exist; name the folder of a run"),
        (["import", "started", "out"], 2, r"started/config\.json does not exist; name a folder with config\.json"),
        (["import", "t5", "out"], 2, r"t5/config\.json: model_type is 't5'; only .* can be read: modernbert, bert, "),
    ],
)  # fmt: skip
def test_folders_of_the_wrong_kind(capsys, arguments, status, message):
    Path("started/checkpoints").mkdir(parents=True)
    Path("t5").mkdir()
    Path("t5/config.json").write_text('{"model_type": "t5"}')
    assert main(arguments) == status
    assert re.search(message, the_error(capsys))
    assert not Path("out").exists()


def test_evaluation_of_a_folder_without_weights(tiny, capsys):
    shutil.copytree(tiny.parent / "tokenizer", "bare")
    Path("bare/config.json").write_text('{"model_type": "modernbert", "max_position_embeddings": 64}')
    assert main(["evaluate", "bare", "--recipe", str(tiny)]) == 2
    assert the_error(capsys).startswith("bare: Transformers ")


def test_a_resumed_run_with_other_batches(tiny, tmp_path, capsys):
    """A recipe may change the future of a run but not its past: the token count would jump."""
    arguments = ["train", str(tiny), f"run_folder={tmp_path}/run", "phases.extension.decay_tokens=0"]
    assert main([*arguments, "phases.extension.tokens=8K"]) == 0
    capsys.readouterr()
    assert main([*arguments, "phases.extension.tokens=16K", "phases.extension.batch_tokens=1024"]) == 2
    assert re.match(
        r"phases: 18 steps are 28,672 tokens by the recipe, .*step-00000018\.pt was made after 32,768: .*init\.from",
        the_error(capsys),
    )
    assert main([*arguments, "phases.extension.tokens=16K"]) == 0
    assert [step["tokens"] for step in read_steps(tmp_path / "run")][16:] == list(
        range(30_720, 40_961, 2_048)
    )


def test_all_checkpoints_are_damaged(tiny, tmp_path, capsys, caplog):
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    (folder / "step-00000007.pt").write_bytes(b"not a checkpoint")
    assert main(["train", str(tiny), f"run_folder={tmp_path}/run"]) == 2
    assert re.match(
        r".*checkpoints: none of its 1 checkpoint\(s\) can be read .*another run_folder", the_error(capsys)
    )
    assert "CHECKPOINT SKIPPED: " in caplog.text
    assert [path.name for path in folder.iterdir()] == ["step-00000007.pt"]  # no new run has started


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"x\.jsonl:2: invalid UTF-8 .* pass --encoding latin-1"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"x\.jsonl:2: broken JSON \(.*\); repair or remove the line"),
        ("x.txt", b"caf\xe9", r"x\.txt: invalid UTF-8 \(.*\); name its encoding .*"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["tokenize", "tokenizer"])
def test_bytes_that_are_not_text(tiny, capsys, command, name, content, message):
    Path(name).write_bytes(content)
    options = {
        "tokenize": [
            "--tokenizer",
            str(tiny.parent / "tokenizer"),
            "--workers",
            "1",
            "--input",
            f"web={name}",
        ],
        "tokenizer": ["--vocab-size", "300", "--input", name],
    }
    assert prepare([command, "out", *options[command]]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.fullmatch(f"error: {message}", error.splitlines()[-1])


def tokenized(texts: list[str], tokenizer: Path, store: Path) -> Path:
    """Write a store of these texts, in this order, without a validation split; return its folder."""
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    Path("texts.jsonl").write_text("".join(lines))
    options = ["--workers", "1", "--valid-fraction", "0", "--input", "web=texts.jsonl"]
    assert prepare(["tokenize", str(store), "--tokenizer", str(tokenizer), *options]) == 0
    return store


def test_a_corpus_of_one_token_trains(tiny, tmp_path):
    store = tokenized(["", "w7", ""], tiny.parent / "tokenizer", tmp_path / "store")
    manifest = json.loads((store / "manifest.json").read_text())["sources"]["web"]
    assert (manifest["left_out"], manifest["splits"]["train"]["num_tokens"]) == ({"empty": 2}, 1)
    overrides = [f"run_folder={tmp_path}/run", f"data.sources.web.store={store}"]
    overrides += ["data.sources.code=null", "phases.pretrain.mixture.code=null"]
    assert main(["train", str(tiny), *overrides]) == 0
    steps = read_steps(tmp_path / "run")
    assert steps[0]["loss"] == pytest.approx(np.log(256), abs=0.5)
    assert steps[-1]["loss"] < 1  # every target is the same token
    assert steps[0]["fill"] == 3 / 256  # [CLS] w7 [SEP] in a row


def test_special_tokens_in_a_text_stay_text(tmp_path):
    texts = ["[CLS] a [MASK] b[MASK] [SEP] [PAD] [UNK]", "[MASK]", "words about the [MASK] token " * 9]
    save_tokenizer(train_tokenizer(texts, 300), tmp_path / "tokenizer")
    store = tokenized(texts, tmp_path / "tokenizer", tmp_path / "store")
    info = load_tokenizer_info(store)
    plan = plan_of_an_epoch(load_manifest(store), context_tokens=128, row_tokens=128)
    pieces = [piece for batch in read_epoch(plan, info) for piece in pieces_of(batch, info, 128)]
    decode = load_tokenizer(store / "tokenizer.json").decode
    assert sorted(decode(piece.tolist(), skip_special_tokens=False) for piece in pieces) == sorted(texts)


def test_a_truncated_shard_stops_the_run_when_it_is_read(tmp_path, capfd):
    recipe = make_many_shards(tmp_path)
    later = shards_read(recipe, range(4), range(2, 3)) - shards_read(recipe, range(4), range(2))
    shard = tmp_path / f"store/web/train/shard.{min(later):05}.mds"
    whole = truncate(shard)
    save_often = ["training.save_every_tokens=4K", "training.keep_checkpoints=100", "phases.extension=null"]
    started = time.monotonic()
    assert main(["train", str(recipe), *save_often]) == 2
    assert time.monotonic() - started < 60
    error = the_error(capfd)
    assert error.startswith(f"store: shard {min(later)} of {tmp_path}/store/web/train cannot be read ")
    assert error.endswith(
        f"run `python -m data_prep verify {tmp_path}/store`, then restore or prepare the store again"
    )
    assert prepare(["verify", str(tmp_path / "store")]) == 1
    assert f"damaged: {shard}: " in capfd.readouterr().out
    trained = len(read_steps(tmp_path / "run"))
    assert trained > 3
    assert list_checkpoints(tmp_path / "run")

    shard.write_bytes(whole)
    assert main(["train", str(recipe), *save_often]) == 0
    assert main(["train", str(recipe), *save_often, f"run_folder={tmp_path}/undisturbed"]) == 0
    losses = [step["loss"] for step in read_steps(tmp_path / "run")]
    assert len(losses) > trained
    assert losses == [step["loss"] for step in read_steps(tmp_path / "undisturbed")]


def test_a_mistake_that_all_ranks_report(tiny, tmp_path):
    done = spawned.launch(
        2,
        "train",
        tiny,
        f"run_folder={tmp_path}/run",
        "data.num_streams=1",
        "phases.pretrain.batch_ramp=null",
    )
    assert done.returncode == 2
    assert re.search(
        r"^(rank 1: )?error: data.num_streams is 1, less than the number of ranks \(2\), .*; use at most 1 rank, or ",
        done.stdout,
        re.MULTILINE,
    )
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_shard_that_only_one_rank_cannot_read(tmp_path):
    """Rank 0 waits for rank 1, which has failed: the launch ends and shows that error."""
    recipe = make_many_shards(tmp_path)
    at_once, rank_0_shards = shards_read(recipe, range(4), range(1)), shards_read(recipe, range(2), range(3))
    rank_1_shards = shards_read(recipe, range(2, 4), range(1, 2)) - at_once - rank_0_shards
    truncate(tmp_path / f"store/web/train/shard.{min(rank_1_shards):05}.mds")
    done = spawned.launch(2, "train", recipe)
    assert done.returncode == 2
    assert re.search(
        rf"^rank 1: error: store: shard {min(rank_1_shards)} of .* cannot be read", done.stdout, re.MULTILINE
    )
    assert "Traceback (most recent call last)" not in re.sub("(?s)Exception ignored in.*", "", done.stdout)
    assert len(read_steps(tmp_path / "run")) > 0


def test_a_loader_process_that_is_killed(tiny, tmp_path):
    """The kernel kills it when memory runs out: the run ends without waiting for the other loader processes."""
    long = ("data.num_workers=2", "phases.pretrain.tokens=10M", "data.warn_epochs=1000")
    process = spawned.start(main, ["train", str(tiny), *long, f"run_folder={tmp_path}/run"])
    wait_for_steps(tmp_path / "run", 2, process)
    worker, _ = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    done = process.finish()
    assert done.returncode == 1
    assert re.search(
        "^error: a data loader worker was killed, .* lower data.num_workers",
        done.stdout,
        re.MULTILINE,
    )
    assert "Traceback" not in done.stdout
