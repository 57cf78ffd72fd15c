"""Two runs in one folder: the second is refused; a run that was killed blocks nobody."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import threading
import time

import pytest

from modernbert_train.cli import main
from modernbert_train.config import load_recipe
from modernbert_train.training.distributed import run_lock
from modernbert_train.training.distributed.run_lock import only_run_in
from modernbert_train.training.train import train
from tests.helpers.recipes import make_tiny
from tests.helpers.spawned import held, on_ranks, start

HOST = socket.gethostname()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "_WAIT_SECONDS", 1.0)


def refused(run, pid):
    return (
        rf"run_folder is {run}, in which another run is active: process {pid} on {HOST}, since "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait for it, stop it \(SIGTERM: it saves first\), or name another "
        "run_folder"
    )


def test_the_lock_is_held_while_its_process_runs(tmp_path, impatient):
    run = tmp_path / "run"
    with held(run) as holder:
        with pytest.raises(ValueError, match=rf"^{refused(run, holder.pid)}$"), only_run_in(run):
            pass
        holder.kill()
        with only_run_in(run):  # at once, although its fork is still running
            assert json.loads((run / "run.lock").read_text())["pid"] == os.getpid()


def test_waits_for_one_that_is_about_to_end(tmp_path, caplog):
    run = tmp_path / "run"
    with held(run) as holder:
        threading.Timer(0.5, holder.kill).start()
        with only_run_in(run):
            pass
        (record,) = caplog.records
        assert f"is held by process {holder.pid} on {HOST}" in record.getMessage()


def test_waits_longer_for_another_host(tmp_path, impatient, monkeypatch):
    """A machine that was switched off holds its lock until the file server notices."""
    run = tmp_path / "run"
    monkeypatch.setattr(run_lock, "_WAIT_FOR_OTHER_HOST_SECONDS", 1.5)
    with held(run):
        holder = json.loads((run / "run.lock").read_text())
        (run / "run.lock").write_text(json.dumps({**holder, "host": "node7", "slurm_job": "55"}))
        since = time.monotonic()
        with pytest.raises(ValueError, match=r"on node7, since .* UTC, Slurm job 55; wait"), only_run_in(run):
            pass
        assert time.monotonic() - since >= 1.5


def test_a_file_that_the_one_before_removed_is_no_lock(tmp_path, monkeypatch):
    run, lockf = tmp_path / "run", fcntl.lockf
    inodes = []

    def removed_meanwhile(descriptor, flags):
        if not inodes:
            (run / "run.lock").unlink()
        inodes.append(os.fstat(descriptor).st_ino)
        lockf(descriptor, flags)

    monkeypatch.setattr(fcntl, "lockf", removed_meanwhile)
    with only_run_in(run):
        assert (run / "run.lock").stat().st_ino == inodes[-1]
    assert len(inodes) == 2


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with only_run_in(tmp_path / "run"):
        pass
    (record,) = caplog.records
    assert re.match(
        r"the file system of .*/run does not support locks \(No locks available\), so", record.getMessage()
    )


def test_the_lock_file_is_removed(tmp_path):
    run = tmp_path / "run"
    with only_run_in(run):
        assert (run / "run.lock").exists()
    assert not run.exists()
    run.mkdir()
    (run / "log.txt").touch()
    with only_run_in(run):
        pass
    assert os.listdir(run) == ["log.txt"]


def train_in(folder):
    os.chdir(folder)
    train(load_recipe("tiny.yaml"))


def test_no_rank_of_a_second_run_starts(tmp_path):
    make_tiny(tmp_path)
    run = tmp_path / "run"
    with held(run) as holder:
        answers = on_ranks(train_in, [(tmp_path,)] * 2)
        assert answers[0] == answers[1]
        assert re.fullmatch(refused(run, holder.pid), answers[0])
        assert os.listdir(run) == ["run.lock"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "run/run.lock").mkdir(parents=True)  # root can write anywhere else
    with (
        pytest.raises(
            ValueError, match=r"^run_folder is .*/run, which is not writable \(Is a directory\); name"
        ),
        only_run_in(tmp_path / "run"),
    ):
        pass


def test_a_second_train_of_a_run_that_trains(tmp_path):
    """The first of two jobs with one recipe continues undisturbed; once it is killed, another resumes at once."""
    make_tiny(tmp_path)
    command = ["train", str(tmp_path / "tiny.yaml")]
    first = start(main, command)
    try:
        while not list((tmp_path / "run/checkpoints").glob("step-*.pt")):
            assert first.poll() is None, first.output
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGSTOP)  # so that it does not end in the meantime
        second = start(main, command).finish()
        assert second.returncode == 2
        assert re.search(rf"^error: {refused(tmp_path / 'run', first.pid)}$", second.stdout, re.MULTILINE)
        os.kill(first.pid, signal.SIGKILL)
        third = start(main, command).finish()
        assert third.returncode == 0, third.stdout
        assert "resuming from" in third.stdout
    finally:
        first.kill()
    assert not (tmp_path / "run/run.lock").exists()
