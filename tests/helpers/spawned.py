"""Processes that have Composer imported from the start: programs, and real ranks, joined by gloo.

Importing Composer takes longer than a small training run. What a launcher or the command line adds to a run is tested
with tests.helpers.launching; everything else about several processes is tested with these.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import Any

import tests.helpers.quiet_composer  # noqa: F401  # before anything that imports Composer
from modernbert_train.__main__ import run
from modernbert_train.common.processes import EXIT_CODE_FILE
from modernbert_train.training.distributed.run_lock import only_run_in

# Ranks are forks of a server process that has imported everything once, not forks of pytest's process.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.quiet_composer", "modernbert_train.training.train"])


@dataclass
class Started:
    """A running function, in a session of its own, and the file that gets its standard output and error."""

    process: BaseProcess
    file: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def output(self) -> str:
        return self.file.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    def finish(self, seconds: float = 240) -> CompletedProcess[str]:
        """Wait for the exit code and the output; after `seconds`, kill its processes and raise TimeoutExpired."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutExpired(self.process.name, seconds, self.output)
        return CompletedProcess(self.process.name, self.process.exitcode, self.output)

    def kill(self) -> None:
        """Kill it with the processes that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join()


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> Started:
    """Call `function` in a new process; what it returns, or exits with, is the exit code (None: 0)."""
    handle, name = tempfile.mkstemp(prefix="output-", dir=".")  # in the folder of the test
    os.close(handle)
    file = Path(name).absolute()
    process = _CONTEXT.Process(target=_call, args=(function, arguments, environment, file))
    process.start()
    return Started(process, file)


def _call(
    function: Callable[..., Any], arguments: Sequence[Any], environment: dict[str, str], file: Path
) -> None:
    os.setsid()
    _prepare(environment)
    with file.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    warnings.simplefilter("ignore")
    sys.exit(function(*arguments))


def _prepare(environment: dict[str, str]) -> None:
    """Make a child a process of its own launch, with these variables."""
    for name in rank_variables(0, 1, ""):  # Composer sets them in the process of the tests
        os.environ.pop(name, None)
    # Other launches have the same parent, by which ranks find the exit code of their launch otherwise.
    os.environ[EXIT_CODE_FILE] = str(Path(tempfile.mkdtemp(prefix="launch-", dir=".")).absolute() / "code")
    os.environ |= environment
    # A child of a fork server would start its loader workers with a server of their own.
    multiprocessing.set_start_method("fork", force=True)


def launch(num_processes: int, *arguments: str | Path, seconds: float = 240) -> CompletedProcess[str]:
    """Run the command line on each rank, as `tests.helpers.launching.launch` does with `composer`.

    Returns the exit code of the rank that failed first, or 0, and the output of all ranks. Once a rank has failed, the
    others are ended by SIGTERM, as a launcher does.
    """
    port = str(free_port())
    exit_code_file = Path(tempfile.mkdtemp(dir=".")).absolute() / "code"
    ranks = [
        start(
            run,
            [str(word) for word in arguments],
            **rank_variables(rank, num_processes, port),
            **{EXIT_CODE_FILE: str(exit_code_file)},
        )
        for rank in range(num_processes)
    ]
    deadline, status = time.monotonic() + seconds, 0
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        failed = [code for rank in ranks if (code := rank.poll())]
        if failed and not status:
            status = failed[0]
            for rank in ranks:
                rank.process.terminate()
        time.sleep(0.02)
    done = [rank.finish(max(0.1, deadline - time.monotonic())) for rank in ranks]
    status = status or next((process.returncode for process in done if process.returncode), 0)
    return CompletedProcess(list(arguments), status, "".join(process.stdout for process in done))


def rank_variables(rank: int, world_size: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def on_ranks(
    function: Callable[..., Any], arguments: Sequence[tuple], environment: Sequence[dict[str, str]] = ()
) -> list[str]:
    """Call `function` on each rank with its arguments; return the message of each ValueError, or "ended well"."""
    port = str(free_port())
    children = []
    for rank, its_arguments in enumerate(arguments):
        variables = rank_variables(rank, len(arguments), port) | (environment[rank] if environment else {})
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_run, args=(function, its_arguments, variables, sender))
        process.start()
        sender.close()
        children.append((process, receiver))
    deadline = time.monotonic() + 150
    answers = [_answer(receiver, deadline) for _, receiver in children]
    for process, _ in children:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
        process.close()
    return answers


def _answer(receiver: Connection, deadline: float) -> str:
    if not receiver.poll(max(0.0, deadline - time.monotonic())):
        return "no answer"
    try:
        return receiver.recv()
    except EOFError:
        return "ended with another error"


def _run(
    function: Callable[..., Any], arguments: tuple, variables: dict[str, str], sender: Connection
) -> None:
    _prepare(variables)
    try:
        function(*arguments)
        answer = "ended well"
    except ValueError as error:
        answer = str(error)
    sender.send(answer)


@contextmanager
def held(run: Path) -> Iterator[BaseProcess]:
    """Run a process that holds the lock of a run folder, and kill it at the end."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_hold, args=(run, sender))
    process.start()
    assert receiver.recv() == "held"
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def _hold(run: Path, answer: Connection) -> None:
    """Hold the lock as a rank does; its loader workers are forks that share its open files and outlive it."""
    with only_run_in(run):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        answer.send("held")
        time.sleep(300)
