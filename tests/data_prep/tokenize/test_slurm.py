"""Preparation on a cluster: datatrove's Slurm executor with fake Slurm commands.

No test may reach a Slurm that the machine happens to have: unless the stand-in is what is found, there is none.
"""

import os
import stat
import sys
from pathlib import Path

import pytest

from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import files_of, numbered_texts, run_tokenize, write_json_lines

REPOSITORY = Path(__file__).parents[3]

# Runs every job of an array, two at a time, in the order of submission; a job whose dependency failed is not run.
SBATCH = """#!{python}
import os, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
script = Path(sys.argv[-1]).read_text()
options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.M))
log = Path("{log}")
number = len(log.read_text().splitlines()) + 1 if log.exists() else 1
arguments = dict(argument.lstrip("-").partition("=")[::2] for argument in sys.argv[1:-1])
needed = arguments.get("dependency", options.get("dependency", ""))
failed = any(Path(f"{log}.failed{{job}}").exists() for job in re.findall(r"\\d+", needed))
last = int(re.match(r"0-(\\d+)", options["array"]).group(1)) if "merge_stats" not in script else -1
def run(task):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here"}}
    environment |= {{"RUN_OFFSET": arguments["export"].rpartition("=")[2]}}
    done = subprocess.run(["bash", sys.argv[-1]], env=environment, capture_output=True, text=True)
    Path(f"{log}.out{{number}}.{{task}}").write_text(done.stdout + done.stderr)
    return done.returncode
with ThreadPoolExecutor(2) as pool:
    codes = [1] if failed else list(pool.map(run, range(last + 1)))
if any(codes):
    Path(f"{log}.failed{{number}}").touch()
with log.open("a") as file:
    file.write(f"{{options['job-name']}} {{options['array']}} {{options.get('mem-per-cpu')}} {{sum(codes)}}\\n")
print("Submitted batch job", number)
"""
SRUN = """#!{python}
import os, sys
arguments = sys.argv[1:]
command = arguments[arguments.index("-n") + 2:]
os.execvp(command[0], command)
"""
SCONTROL = "#!/bin/sh\necho here\n"


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch, tmp_path):
    """Hide a real Slurm: `which` finds no sbatch, and running it fails."""
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (absent / name).write_text("#!/bin/sh\necho no Slurm in tests >&2\nexit 1\n")
        (absent / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{absent}:{os.environ['PATH']}")
    monkeypatch.setattr("data_prep.tokenize.slurm.shutil.which", lambda name: None)


@pytest.fixture
def slurm(tmp_path, monkeypatch, _no_slurm):
    """Put fake Slurm commands on the PATH; return the file in which they write a line per job."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        (folder / name).write_text(text.format(python=sys.executable, log=folder / "jobs"))
    (folder / "scontrol").write_text(SCONTROL)
    for file in folder.iterdir():
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr("data_prep.tokenize.slurm.shutil.which", lambda name: str(folder / name))
    return folder / "jobs"


SLURM = ("--executor", "slurm", "--slurm", "partition=cpu", "time=1:00:00", "mem-per-cpu=3G")


def test_a_cluster_makes_the_same_store(tokenizer_folder, tmp_path, monkeypatch, slurm, capsys):
    monkeypatch.setattr("data_prep.inputs.parts.MIN_PART_BYTES", 16_000)
    write_json_lines(tmp_path / "x.jsonl", numbered_texts(300) * 2)
    options = ("--dedup", "--valid-fraction", "0.1")
    assert run_tokenize(Path("local"), tokenizer_folder, "web=x.jsonl", options=options) == 0
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=(*options, *SLURM)) == 0
    assert "submitted: the store is finished when job 7, the last one, is" in capsys.readouterr().out
    assert files_of(Path("store")) == files_of(Path("local"))
    jobs = [line.split() for line in slurm.read_text().splitlines()]
    stages = [job for job in jobs if job[2] == "3G"]
    assert [job[0] for job in stages] == ["hashes-store", "duplicates-store", "tokens-store", "merge-store"]
    num_parts = int(stages[0][1].partition("-")[2]) + 1
    assert num_parts > 2
    assert all(job[3] == "0" for job in jobs)


def test_failed_tasks_are_submitted_again(tokenizer_folder, tmp_path, monkeypatch, slurm):
    good = write_json_lines(tmp_path / "a.jsonl", numbered_texts(50))
    bad = tmp_path / "b.jsonl"
    bad.write_text("{")
    options = ("--valid-fraction", "0", *SLURM)
    assert run_tokenize(Path("store"), tokenizer_folder, f"a={good}", f"b={bad}", options=options) == 0
    assert not Path("store/manifest.json").exists()
    failed = [line.split() for line in slurm.read_text().splitlines() if not line.endswith(" 0")]
    assert failed[0][0] == "tokens-store"
    logs = "".join(file.read_text() for file in slurm.parent.glob("jobs.out*"))
    assert "b.jsonl:1: broken JSON" in logs
    bad.write_text('{"text": "x"}')
    options = (*options, "--overwrite")  # the input has changed
    assert run_tokenize(Path("store"), tokenizer_folder, f"a={good}", f"b={bad}", options=options) == 0
    assert list(load_manifest("store").sources) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slurm", "partition=cpu"), "slurm: time is required; add --slurm time=..."),
        (("--slurm", "partition"), "slurm: 'partition' must be OPTION=VALUE, such as --slurm partition=cpu"),
        ((), "slurm: partition is required"),
    ],
)
def test_errors_are_one_line(tokenizer_folder, tmp_path, capsys, options, message):
    write_json_lines(tmp_path / "x.jsonl", ["x"])
    options = ("--executor", "slurm", *options)
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=options) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert not Path("store").exists()


def test_without_slurm_there_is_a_clear_error(tokenizer_folder, tmp_path, capsys):
    write_json_lines(tmp_path / "x.jsonl", ["x"])
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl", options=SLURM) == 2
    assert "error: slurm: sbatch is not installed on this machine" in capsys.readouterr().err
