"""A run under a launcher of its own, faults that befall it at a random moment, and what remains of it.

The launcher is a process that forks one rank for each, and ends like `composer`: once a rank has failed, the others get
SIGTERM and, ten seconds later, SIGKILL.
"""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modernbert_train.__main__ import run
from modernbert_train.common.processes import EXIT_CODE_FILE
from modernbert_train.data.reader import SequenceReader
from tests.helpers import spawned

_GRACE_SECONDS = 10.0
_MEMORY = Path("/dev/shm")


class Launch:
    """A run of the command line on several ranks.

    Args:
        folder: for the logs of the ranks, and for the file that plants an error in their loaders.
        world_size: number of ranks.
        arguments: of the command line.
    """

    def __init__(self, folder: Path, world_size: int, *arguments: str) -> None:
        folder.mkdir()
        self.folder, self.world_size = folder, world_size
        self.memory_before = set(_MEMORY.iterdir())
        self.started = spawned.start(
            _launch, folder, world_size, arguments, **{EXIT_CODE_FILE: str(folder / "code")}
        )

    @property
    def rank_pids(self) -> list[int]:
        """The process ids of the ranks, once they have started."""
        file = self.folder / "ranks"
        until(file.exists, 60)
        return json.loads(file.read_text())

    def workers(self) -> list[int]:
        """Return the process ids of all loader workers."""
        return [child for rank in self.rank_pids for child in _children(rank)]

    def is_running(self) -> bool:
        return self.started.poll() is None

    def finish(self, seconds: float) -> int:
        """Wait for the end, and return the exit code."""
        return self.started.finish(seconds).returncode

    def last_lines(self) -> list[str]:
        """Return the last line of each rank's log that is not empty."""
        logs = [self.folder / f"rank{rank}.log" for rank in range(self.world_size)]
        lines = [log.read_text(errors="replace").strip().splitlines() for log in logs if log.exists()]
        return [of_rank[-1] if of_rank else "" for of_rank in lines]

    def log(self) -> str:
        return "".join(log.read_text(errors="replace") for log in sorted(self.folder.glob("rank*.log")))

    def processes_left(self) -> list[int]:
        """Return the processes of the launcher's session that still run, a moment after its end."""
        deadline = time.monotonic() + 3
        while (left := _session(self.started.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def memory_left(self) -> list[str]:
        """Return the new files in shared memory that no process uses."""
        new = set(_MEMORY.iterdir()) - self.memory_before
        return [file.name for file in new if file.is_file() and not _is_used(file)]

    def kill(self) -> None:
        """Kill everything that is left."""
        for process in _session(self.started.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.started.process.join()


def _launch(folder: Path, world_size: int, arguments: tuple[str, ...]) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    context, port = multiprocessing.get_context("fork"), str(spawned.free_port())
    ranks = [
        context.Process(
            target=_run_rank, args=(folder, arguments, spawned.rank_variables(rank, world_size, port))
        )
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    (folder / "ranks.new").write_text(json.dumps([rank.pid for rank in ranks]))
    (folder / "ranks.new").rename(folder / "ranks")
    failed, kill_at = 0, float("inf")
    while any(rank.is_alive() for rank in ranks):
        if not failed and (failed := next((rank.exitcode for rank in ranks if rank.exitcode), 0)):
            kill_at = time.monotonic() + _GRACE_SECONDS
            for rank in ranks:
                rank.terminate()
        if time.monotonic() > kill_at:
            for rank in ranks:
                rank.kill()
        time.sleep(0.02)
    failed = failed or next((rank.exitcode for rank in ranks if rank.exitcode), 0)
    code = folder / "code"
    os._exit(int(code.read_text()) if code.exists() else failed % 256)


def _run_rank(folder: Path, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    os.environ |= variables
    with (folder / f"rank{variables['RANK']}.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _plant(folder / "planted")
    run(arguments)


def _plant(file: Path) -> None:
    """Make the loader wait for ever, or raise, from the moment at which `file` says so for this rank."""
    next_rows = SequenceReader.next_rows

    def planted(self: SequenceReader, rows_per_stream: int) -> list:
        if file.exists():
            what, rank = json.loads(file.read_text())
            if str(rank) == os.environ["RANK"]:
                if what == "hang":
                    signal.sigwait([])  # nothing ends it but a signal that kills
                if what == "defect":
                    raise KeyError("planted")
                raise OSError(errno.EIO, os.strerror(errno.EIO), "planted.mds")
        return next_rows(self, rows_per_stream)

    SequenceReader.next_rows = planted  # type: ignore[method-assign]


def plant(launch: Launch, what: str, rank: int) -> None:
    """Make the loader of a rank `hang`, or raise an OSError (`eio`) or a KeyError (`defect`)."""
    new = launch.folder / "planted.new"
    new.write_text(json.dumps([what, rank]))
    new.rename(launch.folder / "planted")


def limit_files(process: int, num_bytes: int) -> None:
    """Set the largest size of a file of a running process (`ulimit -f`)."""
    resource.prlimit(process, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small disk in memory on a folder; raises OSError if that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        raise OSError("no right to mount a small disk (mount -t tmpfs)")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only, also for root."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Fill a disk but for some bytes; return the file."""
    file = folder / "filler"
    with file.open("wb") as opened:
        while True:
            state = os.statvfs(folder)
            free = state.f_bavail * state.f_frsize - leave_bytes
            if free < state.f_frsize:
                return file
            try:
                os.posix_fallocate(opened.fileno(), os.fstat(opened.fileno()).st_size, free)
            except OSError:  # a checkpoint has taken the room
                time.sleep(0.001)


def flip_a_bit(file: Path, position: float) -> None:
    """Change one bit, at this part (0 to 1) of a file."""
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 4
    file.write_bytes(content)


def until(is_true: Callable[[], object], seconds: float, poll_seconds: float = 0.002) -> bool:
    """Wait until something is true; return False if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True


def _children(process: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def _session(leader: int) -> list[int]:
    """Return the processes of a session, without those that have ended and await their parent."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(status.parent.name))
    return found


def _is_used(file: Path) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            if str(file) in maps.read_text():
                return True
    return False
