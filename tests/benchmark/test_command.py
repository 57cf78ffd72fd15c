"""Benchmarks that run, as a user starts them; jobs in this process, so that its libraries are imported once."""

import json
import os
import random
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from modernbert_train.benchmark.jobs import plan_benchmark
from modernbert_train.cli import main
from modernbert_train.cli.parser import parse
from modernbert_train.reporting.benchmarks import read_benchmark
from modernbert_train.tasks.results import read_result
from tests.helpers.benchmarks import write_rows, write_suite

pytestmark = pytest.mark.usefixtures("no_process_group")

RESULTS = ("benchmark.md", "results.json", "results.csv")
QUICK = ["epochs=1", "batch_size=8", "train_rows=16", "max_tokens=32", "device=cpu"]


def run(suite, model, *options):
    return main(["benchmark", suite, str(model), *QUICK, "--folder", "out", "--in-process", *options])


def written(folder="out"):
    return {name: (Path(folder) / name).read_bytes() for name in RESULTS}


def test_the_whole_suite_in_miniature_without_network(tmp_path, tiny_exported, no_network, capsys, caplog):
    """Every kind of task of mini.yaml: starts from MNLI, a grid, two seeds, retrieval, baselines."""
    caplog.set_level("INFO")
    write_rows(tmp_path / "rows")
    options = [f"folder={tmp_path}/rows", "--baselines"]
    command = ["benchmark", "yamls/evaluation/mini.yaml", str(tiny_exported), *options, "device=cpu"]
    assert main([*command, "--folder", "out", "--in-process"]) == 0
    printed = capsys.readouterr().out
    benchmark = plan_benchmark(
        "yamls/evaluation/mini.yaml", [str(tiny_exported)], [f"folder={tmp_path}/rows"], "out", False
    )
    results = {job.name: job.result() for job in benchmark.jobs}
    assert None not in results.values()
    assert {result.started_from for name, result in results.items() if "/rte/" in name} == {"mnli"}
    page = (Path("out") / "benchmark.md").read_text()
    assert page in printed
    assert "| rte (from mnli) | accuracy | best | 16 |" in page
    assert "| mnli | accuracy | best | 16 + 16 |" in page
    assert "| colbert | ndcg@10 | last | 10 |" in page
    assert "search: 16 rows to train on; valid: of 10 valid rows, in train: whole rows: 0; query: 0" in page
    assert (Path("out") / "results.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((Path("out") / "results.json").read_text())
    assert {score["model"] for score in numbers["scores"]} == {
        "exported", "majority", "bag of words", "TF-IDF cosine", "BM25"
    }  # fmt: skip
    assert numbers["missing"] == []
    record = read_benchmark(Path("out"), "out")
    assert (record.problems, len(record.scores)) == ([], len(numbers["scores"]))
    # Nothing but the models that others start from is kept.
    kept = {path.parent.parent.name for path in Path("out").rglob("*.safetensors")}
    assert kept == {"mnli"}
    before = written()
    caplog.clear()
    assert main([*command, "--folder", "out", "--in-process"]) == 0
    assert "started" not in caplog.text
    assert written() == before


@pytest.mark.slow
def test_probe_and_onnx_without_network(tmp_path, tiny_exported, no_network, capsys):
    write_rows(tmp_path / "rows")
    tasks = [f"yamls/evaluation/mini.yaml:{name}" for name in ("sst2", "stsb")]
    assert main(["probe", str(tiny_exported), *tasks, f"folder={tmp_path}/rows"]) == 0
    assert "twin" in capsys.readouterr().out
    assert main(["export", str(tiny_exported), "exported", "--onnx"]) == 0
    assert Path("exported/onnx/model.onnx").is_file()


TASKS = "tasks: {first: {}, second: {start_from: first}}"


def test_a_failed_job_and_once_more(tmp_path, tiny_exported, capsys, caplog):
    """The others go on; what builds on it does not start; the same command starts it again."""
    caplog.set_level("INFO")
    suite = write_suite(tmp_path, TASKS)
    broken = Path("out/exported/first/seed-1")
    broken.mkdir(parents=True)
    (broken / "file").touch()
    assert run(suite, tiny_exported, "--random-twin") == 1
    assert "FAILED: exported/first/seed-1; see out/exported/first/seed-1.log" in caplog.text
    assert "FAILED: exported/second/seed-1; no start, since a job that it builds on has failed" in caplog.text
    assert "is not empty" in Path("out/exported/first/seed-1.log").read_text()
    printed = capsys.readouterr().out
    assert "2 of 8 jobs have no result yet" in printed
    assert "| exported | exported-random-twin | first |" in printed
    twin = Path("out/exported-random-twin")
    assert read_result(twin / "first/seed-2").random_twin
    assert read_result(twin / "second/seed-2").started_from == "first"
    (broken / "file").unlink()
    caplog.clear()
    assert run(suite, tiny_exported) == 0
    started = [record.args[0] for record in caplog.records if record.msg.startswith("started")]
    assert started == ["exported/first/seed-1", "exported/second/seed-1"]
    assert "jobs have no result yet" not in capsys.readouterr().out
    assert run(suite, tiny_exported, "epochs=2", "--report") == 2
    assert "ran with other settings: epochs was 1.0, is 2.0" in capsys.readouterr().err


def start(suite, model):
    """Fork this process, whose libraries are imported; the child runs the benchmark in `killed`."""
    process = os.fork()
    if process:
        return process
    try:
        sys.stdout = sys.stderr = open("output", "a")  # noqa: SIM115
        code = main(["benchmark", suite, str(model), *QUICK, "--folder", "killed", "--in-process"])
    finally:
        os._exit(code if "code" in locals() else 99)


def kill_and_compare(suite, model, kills, seed):
    """Kill a benchmark at random moments, run it to its end, and compare it with an undisturbed one."""
    started_at = time.monotonic()
    assert run(suite, model) == 0
    whole = time.monotonic() - started_at
    generator = random.Random(seed)
    done = 0
    while done < kills:
        process = start(suite, model)
        deadline = time.monotonic() + generator.uniform(0.1, 0.9) * whole / kills
        while time.monotonic() < deadline and not os.waitpid(process, os.WNOHANG)[0]:
            time.sleep(0.005)
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            break  # it has ended before
        os.waitpid(process, 0)
        done += 1
        finished = {path: path.stat().st_mtime_ns for path in Path("killed").rglob("result.json")}
    _, status = os.waitpid(start(suite, model), 0)
    assert status == 0, Path("output").read_text()[-2000:]
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items()), "a finished job ran again"
    assert written("killed") == written("out")
    return done


def test_a_killed_benchmark_goes_on(tmp_path, tiny_exported):
    suite = write_suite(tmp_path, TASKS)
    assert kill_and_compare(suite, tiny_exported, kills=2, seed=0) == 2


@pytest.mark.slow
def test_a_benchmark_killed_ten_times(tmp_path, tiny_exported):
    suite = write_suite(tmp_path, TASKS)
    assert kill_and_compare(suite, tiny_exported, kills=10, seed=1) == 10


@pytest.mark.slow
def test_jobs_in_processes_of_their_own(tmp_path, tiny_exported):
    """Two at a time; the tables are those of one process, bit for bit."""
    suite = write_suite(tmp_path, TASKS)
    assert run(suite, tiny_exported, "--seeds", "1") == 0
    command = ["benchmark", suite, str(tiny_exported), *QUICK, "--seeds", "1"]
    assert main([*command, "--folder", "apart", "--parallel", "2"]) == 0
    assert written("apart") == written("out")
    assert "fine-tuned:" in Path("apart/exported/first/seed-1.log").read_text()


def test_what_is_shown_and_listed_before(tmp_path, capsys):
    suite = write_suite(tmp_path, "tasks: {first: {}, rte: {epochs: 2}}")
    assert main(["benchmark", suite, "runs/a", "epochs=4", "--dry-run", "--folder", "out"]) == 0
    text = capsys.readouterr().out
    assert "rte (not from MNLI)" in text
    assert "4 jobs, 0 of them finished" in text
    assert main(["benchmark", suite, "runs/a", "epochs=4", "--list", "--folder", "out"]) == 0
    (first, *others) = capsys.readouterr().out.splitlines()
    words = shlex.split(first)
    assert words[:3] == [sys.executable, "-m", "modernbert_train"]
    options = parse(words[3:])
    assert (options.model, options.task, options.out) == ("runs/a", f"{suite}:first", "out/a/first/seed-1")
    assert options.overrides == ["epochs=4", "seed=1"]
    assert len(others) == 3
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nowhere/model"], "nowhere/model: there is no such path, and the Hugging Face hub does not give"),
        (["nowhere"], "nowhere: no such run folder, checkpoint or model"),
        (["epochs=2"], "name at least one model after the suite"),
        (["{model}", "--parallel", "0"], "--parallel is 0, must be at least 1"),
        (["{model}", "--in-process", "--parallel", "2"], "leave --parallel and --launcher out"),
        (["{model}", "tasks.furst.epochs=1"], "there is no task 'furst'; did you mean first?"),
        (
            ["{model}", "--launcher", "no-such -n 8"],
            "--launcher is 'no-such -n 8': there is no program no-such",
        ),
        (["{model}", "--seeds", "1", "1"], "seeds is [1, 1]: must be different whole numbers"),
        (["{model}", "label=lable"], "train.jsonl: row 1: there is no column 'lable'"),
    ],
)
def test_what_is_refused_before_anything_runs(tmp_path, tiny_exported, capsys, words, problem):
    suite = write_suite(tmp_path, "tasks: {first: {}}")
    words = [word.replace("{model}", str(tiny_exported)) for word in words]
    assert main(["benchmark", suite, *words, "--folder", "out"]) == 2
    assert problem in capsys.readouterr().err
    assert not Path("out").exists()
