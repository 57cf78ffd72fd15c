"""Several nodes and preemption: the same run under every launcher, and after every stop."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count, islice
from pathlib import Path

import pytest

from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.common.processes import INTERRUPTED_EXIT_CODE, REQUEUE_EXIT_CODE
from modernbert_train.config import Recipe, load_recipe
from modernbert_train.data.batch import checksum
from modernbert_train.data.inputs import open_inputs, plan_rows
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.schedule import build_schedule
from tests.acceptance.test_launch import OVERRIDES, assert_same_steps
from tests.helpers.launching import (
    COMPOSER,
    LAUNCH,
    TORCHRUN,
    TRAIN,
    finish,
    read_steps,
    start,
    wait_for_steps,
)
from tests.helpers.spawned import free_port

# At this learning rate, rounding differences do not grow over the steps of a longer run.
LONGER = (
    *OVERRIDES,
    "phases.pretrain.tokens=48K",
    "phases.pretrain.learning_rate=5e-4",
    "training.save_every_tokens=40K",
)
# Each machine has a /dev/shm of its own.
_OWN_MEMORY = ("sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
_NUMBERS = count()
_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(scope="module")
def one(tiny: Path) -> Path:
    """The uninterrupted run of one process."""
    run = tiny.parent / "one"
    assert main(["train", str(tiny), f"run_folder={run}", *LONGER]) == 0
    return run


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Kill the launchers that a failed test leaves running."""
    yield
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


class Node:
    """A prefix that runs commands on a simulated machine, and the address of the first machine."""

    def __init__(self, prefix: tuple[str, ...], address: str, environment: dict[str, str]) -> None:
        self.prefix, self.address, self.environment = prefix, address, environment

    def start(self, *command: object) -> subprocess.Popen[str]:
        _STARTED.append(start([*self.prefix, *command], **self.environment))
        return _STARTED[-1]


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two network namespaces, each with its own /dev/shm, connected by a virtual cable."""
    names = [f"mb{os.getpid()}-{next(_NUMBERS)}" for _ in range(2)]
    with ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1])
            for number, name in enumerate(names):
                ip("-n", name, "addr", "add", f"10.78.0.{number + 1}/24", "dev", "cable")
                for device in ("cable", "lo"):
                    ip("-n", name, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no right to make network namespaces (ip netns add)")
        environment = {"GLOO_SOCKET_IFNAME": "cable"}
        yield [Node(("ip", "netns", "exec", name, *_OWN_MEMORY), "10.78.0.1", environment) for name in names]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def composer_on(
    nodes: list[Node], ranks_per_node: int, launcher: Path, *arguments: object
) -> list[subprocess.Popen[str]]:
    """Start `composer` on every node, as a user would."""
    port = free_port()
    where = [
        "--world_size",
        ranks_per_node * len(nodes),
        "--master_addr",
        nodes[0].address,
        "--master_port",
        port,
    ]
    return [
        node.start(launcher, "-n", ranks_per_node, *where, "--node_rank", number, *TRAIN, *arguments)
        for number, node in enumerate(nodes)
    ]


def torchrun_on(nodes: list[Node], ranks_per_node: int, *arguments: object) -> list[subprocess.Popen[str]]:
    """Start `torchrun` on every node, as a user would."""
    where = ["--nnodes", len(nodes), "--nproc-per-node", ranks_per_node, "--master-addr", nodes[0].address]
    where += ["--master-port", free_port(), "--signals-to-handle", "SIGTERM,SIGUSR1"]
    return [
        node.start(TORCHRUN, *where, "--node-rank", number, *TRAIN, *arguments)
        for number, node in enumerate(nodes)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[int]:
    done = [finish(process) for process in processes]
    assert all("Traceback" not in process.stdout for process in done if process.returncode == 0)
    return [process.returncode for process in done]


def test_two_nodes_by_composer_train_as_one_process(tiny, one, nodes, tmp_path):
    """After a signal to one node, both save together; one process resumes with the same batches."""
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    processes = composer_on(nodes, 1, LAUNCH, *arguments)
    wait_for_steps(tmp_path / "run", 5, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    assert ended(processes) == [REQUEUE_EXIT_CODE] * 2
    stopped_after = len(read_steps(tmp_path / "run"))
    assert 5 <= stopped_after < len(read_steps(one))
    assert list_checkpoints(tmp_path / "run")[-1].stem == f"step-{stopped_after:08d}"
    assert main(["train", *map(str, arguments)]) == 0
    assert_same_steps(tmp_path / "run", one)


@pytest.mark.slow
def test_two_nodes_of_two_ranks_by_composer(tiny, one, nodes, tmp_path):
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    assert ended(composer_on(nodes, 2, COMPOSER, *arguments)) == [0, 0]
    assert_same_steps(tmp_path / "run", one)


@pytest.mark.slow
def test_two_nodes_of_two_ranks_by_composer_are_stopped(tiny, one, nodes, tmp_path):
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    processes = composer_on(nodes, 2, LAUNCH, *arguments)
    wait_for_steps(tmp_path / "run", 5, processes[0])
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)  # all processes, as Slurm does
    assert ended(processes) == [REQUEUE_EXIT_CODE] * 2
    (process,) = composer_on(nodes[:1], 2, LAUNCH, *arguments)
    assert ended([process]) == [0]
    assert_same_steps(tmp_path / "run", one)


@pytest.mark.slow
def test_two_nodes_of_two_ranks_by_torchrun(tiny, one, nodes, tmp_path):
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    assert ended(torchrun_on(nodes, 2, *arguments)) == [0, 0]
    assert_same_steps(tmp_path / "run", one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_two_nodes_of_two_ranks_by_torchrun_are_stopped(tiny, one, nodes, tmp_path, number):
    """torchrun passes the signal on, waits for its ranks, and exits with 1, whatever their exit codes are."""
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    processes = torchrun_on(nodes, 2, *arguments)
    wait_for_steps(tmp_path / "run", 5, processes[0])
    for process in processes:
        process.send_signal(number)
    assert [finish(process).returncode for process in processes] == [1, 1]
    stopped_after = len(read_steps(tmp_path / "run"))
    assert list_checkpoints(tmp_path / "run")[-1].stem == f"step-{stopped_after:08d}"
    (process,) = torchrun_on(nodes[:1], 2, *arguments)
    assert ended([process]) == [0]
    assert_same_steps(tmp_path / "run", one)


@pytest.mark.slow
def test_nodes_come_and_go(tiny, tmp_path):
    """A node starts alone, another joins and is killed, and one goes on alone: all on the batches of the plan."""
    run = tmp_path / "run"
    options = ["phases.extension=null", "phases.pretrain.batch_ramp=null", "phases.pretrain.tokens=800K"]
    options += ["training.save_every_tokens=20K", f"run_folder={run}"]
    elastic = ["--nnodes=1:2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    elastic += ["--rdzv-conf=last_call_timeout=3", "--max-restarts=0", *TRAIN, tiny, *options]

    def node() -> subprocess.Popen[str]:
        _STARTED.append(start([LAUNCH, "torchrun", *elastic]))
        return _STARTED[-1]

    first = node()
    wait_for_steps(run, 2, first)
    second = node()
    while [launch["world_size"] for launch in launches(run)] != [1, 2]:
        assert (first.poll(), second.poll()) == (None, None)
        time.sleep(0.1)
    wait_for_steps(run, len(read_steps(run)) + 2, first)
    os.killpg(second.pid, signal.SIGKILL)
    finish(second)
    assert finish(first).returncode in (137, REQUEUE_EXIT_CODE)
    third = node()
    while len(launches(run)) < 3:
        assert third.poll() is None
        time.sleep(0.1)
    wait_for_steps(run, len(read_steps(run)) + 2, third)
    third.terminate()
    assert finish(third).returncode == REQUEUE_EXIT_CODE
    assert [launch["world_size"] for launch in launches(run)] == [1, 2, 1]
    steps = read_steps(run)
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    expected = checksums_of(load_recipe(tiny, options), len(steps))
    assert [step["batch_crc32"] for step in steps] == expected


def launches(run: Path) -> list[dict[str, object]]:
    return json.loads((run / "provenance.json").read_text())["launches"]


def checksums_of(recipe: Recipe, num_steps: int) -> list[int]:
    """Return the checksums of the first batches of a run, read in this process."""
    inputs = open_inputs(recipe)
    with closing(inputs.reader):
        phases = plan_rows(recipe, build_schedule(recipe), inputs)
        loader = PlannedLoader(PlannedRows(phases, inputs, rank=0, world_size=1), num_workers=0)
        return [checksum(batch) % 2**32 for batch in islice(loader, num_steps)]


def test_a_launcher_dies_and_its_ranks_save(tiny, one, tmp_path):
    """`composer` alone is killed by SIGUSR1; its ranks notice, save and exit."""
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    process = start([COMPOSER, "-n", 1, *TRAIN, *arguments])
    wait_for_steps(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGUSR1)
    done = finish(process)  # reads until the rank, which shares the output, has ended
    assert done.returncode == -signal.SIGUSR1
    assert "SIGTERM: stopping after step " in done.stdout
    stopped_after = len(read_steps(tmp_path / "run"))
    assert stopped_after < len(read_steps(one))
    assert list_checkpoints(tmp_path / "run")[-1].stem == f"step-{stopped_after:08d}"
    assert f"stopped and saved after step {stopped_after}; run the same command to resume" in done.stdout


@pytest.mark.parametrize("launcher", [COMPOSER, pytest.param(LAUNCH, marks=pytest.mark.slow)])
def test_ctrl_c_saves(tiny, one, tmp_path, launcher):
    """A terminal signals the launcher and its ranks, which have trained as one process until then."""
    arguments = [tiny, f"run_folder={tmp_path}/run", *LONGER]
    process = start([launcher, "-n", 2, *TRAIN, *arguments])
    wait_for_steps(tmp_path / "run", 5, process)
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.returncode == INTERRUPTED_EXIT_CODE, done.stdout
    stopped_after = len(read_steps(tmp_path / "run"))
    assert stopped_after < len(read_steps(one))
    assert_same_steps(tmp_path / "run", one, stopped_after)
    assert f"stopped and saved after step {stopped_after}; run the same command to resume" in done.stdout


def test_the_wrapper_ends_as_its_launcher_does():
    command = [LAUNCH, "torchrun", "--nproc-per-node", 1, "--no-python", "false"]
    assert finish(start(command)).returncode == 1


RANK = """
import os, sys, time
from modernbert_train.common.processes import end_with_first_rank, first_exit_code
end_with_first_rank()
time.sleep(1)  # until all ranks are ready
if os.environ["RANK"] == "0" and "killed" in sys.argv:
    os.kill(os.getpid(), 9)
if os.environ["RANK"] == "1" and "killed" not in sys.argv:
    sys.exit(first_exit_code(2))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([COMPOSER, "-n", 2, "rank.py"], 2),
        ([LAUNCH, "torchrun", "--nproc-per-node", 2, "rank.py"], 2),
        ([LAUNCH, "-n", 2, "rank.py", "killed"], 137),
    ],
)
def test_a_launcher_ends_with_the_code_of_the_rank_that_failed_first(tmp_path, command, code):
    (tmp_path / "rank.py").write_text(RANK)
    assert finish(start(command), seconds=60).returncode == code
