"""Training from an object store: batches, downloads, and failures of the server."""

import dataclasses
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.data.batch import checksum, join
from modernbert_train.data.inputs import open_inputs, plan_rows
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.planning.downloads import assign_nodes, check_downloads
from modernbert_train.schedule import build_schedule
from modernbert_train.store import download
from modernbert_train.store.reading import BlockReader
from tests.helpers.launching import launch, read_steps
from tests.helpers.object_store import CONNECTIONS_ARE_LEFT, serving, wait_for_downloads
from tests.helpers.recipes import TINY, skewed_documents
from tests.helpers.stores import make_store, make_tokenizer

REPOSITORY = Path(__file__).parents[2]
REMOTE = ["data.sources.web.store=s3://bucket/store", "data.sources.code.store=s3://bucket/store"]
IMPATIENT = ["data.cache.download_attempts=3", "data.cache.download_timeout_seconds=4"]
SHORT = ["phases.pretrain.tokens=8K", "phases.extension=null", "training.save_every_tokens=2K"]
SHARD_BYTES = 2_048
pytestmark = CONNECTIONS_ARE_LEFT


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The tiny recipe on a store of hundreds of shards in a bucket, with short shuffle blocks: a run reads many."""
    folder = tmp_path_factory.mktemp("remote")
    tokenizer = make_tokenizer(folder / "tokenizer")
    sources = {
        "web": {"train": skewed_documents(1_200, 1), "valid": skewed_documents(20, 3)},
        "code": {"train": skewed_documents(600, 2), "valid": skewed_documents(20, 4)},
    }
    make_store(
        folder / "buckets/bucket/store", tokenizer, sources, block_documents=4, shard_bytes=SHARD_BYTES
    )
    recipe = folder / "tiny.yaml"
    text = TINY.replace("{folder}/store", "{folder}/buckets/bucket/store").format(folder=folder)
    recipe.write_text(text.replace("shuffle_rows: 32", "shuffle_rows: 8"))
    return recipe


@pytest.fixture
def server(tiny, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_PAUSE_SECONDS", 0.3)
    with serving(tiny.parent / "buckets", monkeypatch) as store:
        yield store


def loader_of(recipe, *, rank=0, world_size=1, num_workers=0, steps=None):
    """Loader and reader of a rank, over all phases."""
    inputs = open_inputs(recipe)
    phases = plan_rows(recipe, build_schedule(recipe), inputs)
    rows = PlannedRows(phases, inputs, rank=rank, world_size=world_size)
    return PlannedLoader(rows, num_workers=num_workers), inputs


def checksums(recipe, **options) -> list[int]:
    loader, inputs = loader_of(recipe, **options)
    with closing(inputs.reader):
        return [checksum(batch) for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_local_store(tiny, server, num_workers):
    expected = checksums(load_recipe(tiny))
    limit = 40 * SHARD_BYTES
    recipe = load_recipe(tiny, [*REMOTE, f"data.cache.limit_bytes={limit}"])
    assert checksums(recipe, num_workers=num_workers) == expected
    wait_for_downloads()  # those in progress store and evict shards
    cached = sum(file.stat().st_size for file in Path("cache/shards").rglob("*.mds"))
    assert cached <= limit < 0.3 * sum(file.stat().st_size for file in tiny.parent.rglob("*.mds"))
    assert len(server.shards_got()) * SHARD_BYTES > limit


def test_a_run_is_that_of_the_local_store(tiny, server):
    assert main(["train", str(tiny), *SHORT, "run_folder=local"]) == 0
    assert (
        main(["train", str(tiny), *SHORT, *REMOTE, "run_folder=remote", "data.cache.limit_bytes=90KB"]) == 0
    )
    steps = read_steps(Path("remote"))
    for name in ("loss", "grad_norm", "batch_crc32"):
        assert [step[name] for step in steps] == [step[name] for step in read_steps(Path("local"))]


def test_each_machine_downloads_its_share_only(tiny, server):
    """Two ranks, each on a machine with its own cache, over about half of an epoch."""
    overrides = ["data.num_canonical_nodes=2", "phases.pretrain.tokens=100K", "phases.extension=null"]
    expected = checksums(load_recipe(tiny, overrides))
    parts, got = [], []
    for rank in range(2):
        server.gets.clear()
        recipe = load_recipe(tiny, [*REMOTE, *overrides, f"data.cache.folder=machine-{rank}"])
        loader, inputs = loader_of(recipe, rank=rank, world_size=2)
        with closing(inputs.reader):
            parts.append(list(loader))
        wait_for_downloads()  # downloads that were in progress
        got.append(server.shards_got())
    assert [checksum(join(list(batches))) for batches in zip(*parts, strict=True)] == expected
    assert set((got[0] + got[1]).values()) == {1}  # no shard twice, on one machine or on both
    for source in ("web", "code"):
        num_shards = len(inputs.train[source].shards)
        for machine_gets in got:
            assert (
                0.2 < sum(f"/{source}/" in key for key in machine_gets) / num_shards <= 0.5 + 1 / num_shards
            )


@pytest.mark.slow
def test_two_machines_train_together(tiny, server, tmp_path):
    """Two launchers with one process and one cache each, as on two machines."""
    options = ["data.num_canonical_nodes=2", *SHORT]
    assert main(["train", str(tiny), *options, "run_folder=local"]) == 0
    composer = str(Path(sys.executable).with_name("composer"))
    words = [composer, "--world_size", "2", "-n", "1", "--master_addr", "127.0.0.1", "--master_port", "29713"]
    launched = [
        subprocess.Popen(
            [*words, "--node_rank", str(node), "--base_rank", str(node), "-m", "modernbert_train", "train", str(tiny),
             *options, *REMOTE, f"data.cache.folder={tmp_path}/machine-{node}", "run_folder=together"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in launched]
    assert [process.returncode for process in launched] == [0, 0], outputs
    checks = [[step["batch_crc32"] for step in read_steps(Path(run))] for run in ("local", "together")]
    assert checks[0] == checks[1]
    cached = [
        {file.name for file in Path(f"machine-{node}").glob("shards/*web-train*/*")} for node in range(2)
    ]
    assert all(cached)
    assert not cached[0] & cached[1]


def test_a_server_that_comes_back_in_the_middle_of_a_run(tiny, server):
    patient = ["data.cache.download_attempts=100", "data.cache.download_timeout_seconds=20"]
    expected = checksums(load_recipe(tiny))
    loader, inputs = loader_of(load_recipe(tiny, [*REMOTE, *patient]), num_workers=2)
    found = []
    with closing(inputs.reader):
        for batch in loader:
            found.append(checksum(batch))
            if len(found) == 2:
                server.stop()
                threading.Timer(2, server.start).start()
    assert found == expected


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_server_that_stops_for_good(tiny, server, capfd, how):
    """The run ends with an error within the stated time, and resumes when started again."""
    run = ["train", str(tiny), *SHORT, *REMOTE, *IMPATIENT]

    def go_away() -> None:
        while not Path("run/metrics.jsonl").exists():
            time.sleep(0.01)
        if how == "gone":
            server.stop()
        else:
            server.silent = ".mds"

    threading.Thread(target=go_away, daemon=True).start()
    # A small model, since many steps are made from what has been downloaded ahead.
    long = ["data.num_workers=2", "phases.pretrain.tokens=400K", "model.num_hidden_layers=1"]
    long += ["training.save_every_tokens=0"]
    assert main([*run, "run_folder=run", *long]) == 1  # another try may go well
    error = capfd.readouterr().err
    assert "Traceback" not in error
    what = "is not reachable" if how == "gone" else "cannot be read"
    message = rf"^error: store: s3://bucket/store/.*mds {what}, given up after 3 attempts in \d+ s"
    assert re.search(message, error, re.MULTILINE)


def test_missing_credentials_are_reported_before_anything_is_built(tiny, server, monkeypatch, capfd):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert main(["train", str(tiny), *REMOTE, "run_folder=run"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search("needs credentials, and none were found .*; set AWS_ACCESS_KEY_ID and AWS_SECRET", line)
    assert not Path("run").exists()


@pytest.mark.slow
def test_all_ranks_report_that_the_server_is_gone(tiny, server):
    """No rank waits for another forever: the launch ends within the stated time."""
    server.silent = ".mds"
    started = time.monotonic()
    done = launch(2, "train", tiny, *REMOTE, *IMPATIENT, seconds=120)
    assert done.returncode not in (0, None)
    assert time.monotonic() - started < 90
    assert "given up after 3 attempts" in done.stdout


@pytest.mark.slow
def test_repeated_kills_with_an_object_store(tiny, server, tmp_path):
    recipe = shutil.copy(tiny, tmp_path / "tiny.yaml")
    server.bytes_per_second = 100_000
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.kill", str(recipe)]
    options = [
        *REMOTE,
        "training.save_every_tokens=2K",
        f"data.cache.folder={tmp_path}/cache",
        "data.cache.limit_bytes=90KB",
    ]
    more = ["--kills", "6", "--world-size", "2"]
    done = subprocess.run(
        [*command, *options, *more], cwd=REPOSITORY, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout
    assert not [name for name in os.listdir(tmp_path / "cache/incoming") if "claim" in name]


def test_shuffle_blocks_are_prefetched(tiny, server, monkeypatch):
    """A slow consumer waits for the first shuffle blocks only."""
    recipe = load_recipe(tiny, [*REMOTE, "phases.pretrain.tokens=96K", "phases.extension=null"])

    fetch, fetched_by = download.Downloads.fetch, []

    def noted(*arguments, **options) -> None:
        fetched_by.append(threading.current_thread())
        fetch(*arguments, **options)

    monkeypatch.setattr(download.Downloads, "fetch", noted)

    def waited_for() -> np.ndarray:
        """Return the files whose download a batch had to wait for, up to each batch."""
        shutil.rmtree("cache", ignore_errors=True)
        fetched_by.clear()
        loader, inputs = loader_of(recipe)
        counts = []
        for _ in loader:
            counts.append(fetched_by.count(threading.main_thread()))
            inputs.reader.close()
            wait_for_downloads()  # all requested downloads
        return np.array(counts)

    ahead = waited_for()
    monkeypatch.setattr(BlockReader, "fetch_ahead", lambda *arguments: None)
    behind = waited_for()
    assert ahead[-1] == ahead[1]
    assert behind[-1] > behind[1] + 20


def test_nodes_of_machines(tiny):
    recipe = load_recipe(
        tiny, ["data.num_streams=8", "data.num_canonical_nodes=4", "phases.pretrain.batch_ramp=null"]
    )
    inputs = open_inputs(recipe)
    plan = plan_rows(recipe, build_schedule(recipe), inputs)[0].plan
    assert assign_nodes(plan, 4, 2) == [{0, 1}, {2, 3}]
    assert assign_nodes(plan, 8, 1) == [{0}, {0}, {1}, {1}, {2}, {2}, {3}, {3}]
    assert assign_nodes(plan, 3, 1) == [{0, 1}, {1, 2}, {3}]
    assert assign_nodes(plan, 1, 1) == [{0, 1, 2, 3}]


@pytest.mark.parametrize(
    ("limit", "nodes", "world_size", "message"),
    [
        ("10KB", 1, 1, r"limit_bytes is 10KB, but 8 shards are shuffled together, .* 21.94KB: each"),
        ("60KB", 1, 1, r"limit_bytes is 60KB: some shards will be downloaded more than once .*; \d+.\dKB avoids this"),
        ("500GB", 1, 1, None),
        ("null", 1, 2, r"nodes is 1 on 2 machines, so they download (\S+), \1 per epoch instead of \S+ each"),
        ("null", 2, 2, None),
        ("null", 4, 2, None),
        ("null", 2, 4, "num_canonical_nodes is 2 on 4 machines"),
    ],
)  # fmt: skip
def test_messages_about_downloads(tiny, server, caplog, limit, nodes, world_size, message):
    caplog.set_level(logging.INFO)
    recipe = load_recipe(
        tiny, [*REMOTE, f"data.cache.limit_bytes={limit}", f"data.num_canonical_nodes={nodes}"]
    )
    inputs = open_inputs(recipe)
    phases = plan_rows(recipe, build_schedule(recipe), inputs)
    if limit == "10KB":
        with pytest.raises(ValueError, match=message):
            check_downloads(recipe.data, phases, inputs, world_size, 1)
        return
    check_downloads(recipe.data, phases, inputs, world_size, 1)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (message is not None)
    assert message is None or re.search(message, warnings[0])
    assert "in remote stores, each machine downloads" in caplog.text


@pytest.mark.parametrize("remote", [None, "/a/store/that/somebody/else/wrote"])
def test_no_message_about_local_stores(tiny, caplog, remote):
    caplog.set_level(logging.INFO)
    recipe = load_recipe(tiny)
    inputs = open_inputs(recipe)
    for name, split in inputs.train.items():
        inputs.train[name] = dataclasses.replace(split, remote=remote)
    check_downloads(recipe.data, plan_rows(recipe, build_schedule(recipe), inputs), inputs, 4, 1)
    assert not caplog.records
    assert not Path("cache").exists()


def test_the_tokenizer_may_come_from_the_store(tiny, server):
    shutil.copy(tiny.parent / "tokenizer/tokenizer.json", server.root / "bucket/store")
    (server.root / "bucket/store/tokenizer_config.json").write_text("{}")
    recipe = load_recipe(tiny, [*REMOTE, "data.tokenizer=s3://bucket/store"])
    inputs = open_inputs(recipe)
    assert inputs.tokenizer.path.is_relative_to("cache/stores")
