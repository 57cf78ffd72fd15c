"""Real ranks, joined by gloo, for tests of collective checks."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from modernbert_train.training.distributed.run_lock import only_run_in

# Ranks are forks of a server process that has imported everything once, not forks of pytest's process.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.quiet_composer", "modernbert_train.training.train"])


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
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(len(arguments)),
            "LOCAL_WORLD_SIZE": str(len(arguments)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            **(environment[rank] if environment else {}),
        }
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
    os.environ |= variables
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
