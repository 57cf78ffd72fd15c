import logging

import pytest
import torch
from tqdm import tqdm

from modernbert_train.common import launching
from modernbert_train.common.launching import Failures, Job, launch, run_in_process


def make_jobs(folder, *names, after=None):
    """Jobs whose command is `NAME`; `after` maps a name to those before it."""
    return [
        Job(name, lambda name=name: [name], folder / name / "log.txt", (after or {}).get(name, ()))
        for name in names
    ]


@pytest.fixture
def environments(monkeypatch):
    """The environments of the processes that would be started."""
    found = []

    class Started:
        pid, returncode = 0, 0

        def __init__(self, *_, env, **__):
            found.append(env)

        def poll(self):
            return 0

    monkeypatch.setattr(launching.subprocess, "Popen", Started)
    monkeypatch.setattr(launching, "_POLL_SECONDS", 0.0)
    return found


def test_threads_and_devices_are_shared_out(tmp_path, monkeypatch, environments):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    jobs = make_jobs(tmp_path, "a", "b", "c", "d")

    def start(parallel):
        with tqdm(disable=True) as bar:
            assert launch(jobs, parallel, None, lambda _: False, lambda _: None, bar, lambda: 0) == 0

    start(2)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["3", "5", "3", "5"]
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {"4"}
    environments.clear()
    start(1)
    assert {environment["CUDA_VISIBLE_DEVICES"] for environment in environments} == {"3,5"}
    assert "OMP_NUM_THREADS" not in environments[0]


SCRIPT = """
echo $3 started >> {0}/events; sleep 0.2; echo $3 ended >> {0}/events
[ $3 = broken ] && echo "it is broken" && exit 3
touch {0}/$3/done
"""


@pytest.mark.parametrize("in_process", [False, True])
def test_a_job_waits_for_those_before_it(tmp_path, monkeypatch, caplog, in_process):
    """A job whose predecessor has failed is not started; the others go on, and finished jobs are left alone."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(launching, "_POLL_SECONDS", 0.01)
    script = tmp_path / "launcher.sh"
    script.write_text(SCRIPT.format(tmp_path))
    after = {"second": ("first", "old"), "third": ("second",), "lost": ("broken",)}
    jobs = make_jobs(tmp_path, "first", "broken", "second", "lost", "third", "old", "other", after=after)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/done").touch()

    def is_finished(job):
        return (job.log_file.parent / "done").exists()

    def run(arguments):
        (name,) = arguments
        with (tmp_path / "events").open("a") as events:
            events.write(f"{name} started\n{name} ended\n")
        if name == "broken":
            print("it is broken")
            return 3
        (tmp_path / name / "done").touch()
        return 0

    failures = Failures(jobs, is_finished)
    if in_process:
        assert run_in_process(jobs, run, is_finished, failures.on_end) == 0
    else:
        with tqdm(disable=True) as bar:
            launch(jobs, 2, f"sh {script}", is_finished, failures.on_end, bar, lambda: 0)
    failures.summarize()
    events = (tmp_path / "events").read_text().splitlines()
    started = [event.split()[0] for event in events if event.endswith("started")]
    assert sorted(started) == ["broken", "first", "other", "second", "third"]
    for name, others in (("second", "first"), ("third", "second")):
        assert events.index(f"{name} started") > events.index(f"{others} ended")
    assert [ended.job.name for ended in failures.failed] == ["broken", "lost"]
    assert "FAILED: broken with exit code 3" in caplog.text
    assert "    it is broken" in caplog.text
    assert f"FAILED: broken; see {tmp_path}/broken/log.txt" in caplog.text
    assert "FAILED: lost; no start, since a job that it builds on has failed" in caplog.text


def test_jobs_of_this_process_stop_at_ctrl_c(tmp_path):
    started = []

    def run(arguments):
        started.extend(arguments)
        return 130

    jobs = make_jobs(tmp_path, "a", "b")
    assert run_in_process(jobs, run, lambda _: False, lambda _: None) == 2
    assert started == ["a"]
