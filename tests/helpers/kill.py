"""Kill a training run repeatedly, restart it each time, and compare it with an uninterrupted run.

    python -m tests.helpers.kill RECIPE --kills 20 [--world-size 2] [--seed 0] [--ask]

The libraries are imported once; every start forks this process, once for each rank. All ranks are killed at once with
SIGKILL, after a random time or, every other time, while a checkpoint is being written. With `--ask`, one rank receives
SIGTERM, SIGUSR1 or SIGINT after a random step, and all ranks must save and exit. At the end, these must be equal bit
for bit: step, loss, gradient norm, checksum of the global batch and held-out losses of every line of metrics.jsonl, and
all weights of the last checkpoint.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from modernbert_train.common.processes import INTERRUPTED_EXIT_CODE, REQUEUE_EXIT_CODE
from modernbert_train.config import Recipe, load_recipe
from modernbert_train.training.callbacks.preemption import Preempted
from modernbert_train.training.train import train
from tests.helpers.weights import load_weights

TIMING = ("time", "tokens_per_s", "tokens_per_s_per_device", "data_wait_share", "peak_memory_gib")


def launch(recipe: Recipe, world_size: int) -> list[int]:
    """Start all ranks, and return their process ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [_fork_rank(recipe, rank, world_size, port) for rank in range(world_size)]


def _fork_rank(recipe: Recipe, rank: int, world_size: int, port: str) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setpgid(0, 0)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(world_size),
        }
        os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        train(recipe)
        status = 0
    except Preempted as stopped:
        status = stopped.exit_code
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(processes: list[int]) -> None:
    """Wait until all ranks have ended without an error."""
    for process in processes:
        _, status = os.waitpid(process, 0)
        assert status == 0, f"a rank ended with status {status}"


def kill_at(processes: list[int], run: Path, seconds: float, during_save: bool) -> bool:
    """Kill all ranks after `seconds`, or during the next save after that; return False if the run ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or (during_save and not list(run.glob("checkpoints/.saving-*"))):
        if os.waitpid(processes[0], os.WNOHANG)[0]:
            wait(processes[1:])
            return False
        time.sleep(0.003)
    kill(processes)
    return True


def kill(processes: list[int]) -> None:
    """Kill all ranks at once."""
    for process in processes:
        os.kill(process, signal.SIGKILL)
    for process in processes:
        os.waitpid(process, 0)


def ask_at(processes: list[int], run: Path, lines: int) -> bool:
    """Ask one rank to stop after `lines` lines of metrics; return False if the run ended before."""
    while _num_lines(run) < lines:
        if os.waitpid(processes[0], os.WNOHANG)[0]:
            wait(processes[1:])
            return False
        time.sleep(0.003)
    number = random.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    os.kill(random.choice(processes), number)
    statuses = {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes}
    assert statuses in ({0}, {INTERRUPTED_EXIT_CODE if number == signal.SIGINT else REQUEUE_EXIT_CODE}), (
        statuses
    )
    if statuses == {0}:  # the signal came during the last step
        return False
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"]
    assert _newest(run) == f"step-{last:08d}", "not saved after the step it stopped at"
    return True


def read_metrics(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMING} for line in lines]


def assert_same_run(run: Path, undisturbed: Path) -> int:
    """Compare two runs bit for bit, and return the number of compared lines."""
    mine, other = read_metrics(run), read_metrics(undisturbed)
    assert mine == other, next((a, b) for a, b in zip(mine, other, strict=False) if a != b)
    (weights, info), (expected, _) = load_weights(run), load_weights(undisturbed)
    assert info.step == mine[-1]["step"]
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    return len(mine)


def kill_and_compare(
    recipe_path: Path, kills: int, world_size: int, seed: int, ask: bool, overrides: list[str]
) -> None:
    undisturbed = load_recipe(recipe_path, [*overrides, f"run_folder={recipe_path.parent}/undisturbed"])
    recipe = load_recipe(recipe_path, [*overrides, f"run_folder={recipe_path.parent}/killed"])
    reference, run = Path(undisturbed.run_folder), Path(recipe.run_folder)
    for folder in (reference, run):
        shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    wait(launch(undisturbed, world_size))
    whole = time.monotonic() - started
    all_lines = _num_lines(reference)
    random.seed(seed)
    done = restarts = 0
    while done < kills:
        during_save = done % 2 == 1
        seconds = random.uniform(0, 0.6 if during_save else 1.0) * whole
        saved, lines = _newest(run), _num_lines(run)
        if ask:
            lines = random.randint(lines + 1, lines + 1 + (all_lines - lines) // (kills - done + 1))
            stopped = ask_at(launch(recipe, world_size), run, lines)
        else:
            stopped = kill_at(launch(recipe, world_size), run, seconds, during_save)
        if stopped:
            done += 1
            at = f"line {lines}" if ask else f"{seconds:.2f} s in"
            cut_off = [path.name for path in run.glob("checkpoints/.saving-*")] or "no save cut off"
            print(f"kill {done}: {at}, from {saved} to {_newest(run)}, {cut_off}", flush=True)
        elif done < kills:  # the run finished before it could be killed: start again
            assert_same_run(run, reference)
            shutil.rmtree(run)
            restarts += 1
    wait(launch(recipe, world_size))
    lines = assert_same_run(run, reference)
    print(f"{done} kills ({restarts} runs finished in between)")
    print(f"{lines} lines of metrics and all weights equal, bit for bit")


def _num_lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text(encoding="utf-8").count("\n") if file.exists() else 0


def _newest(run: Path) -> str:
    return max((path.stem for path in run.glob("checkpoints/step-*.pt")), default="no checkpoint")


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Build the parser with the options of both programs that kill runs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with these arguments; None: those of this process."""
    parser = command_line(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--ask", action="store_true", help="send one rank a signal instead, upon which all ranks save"
    )
    options = parser.parse_args(arguments)
    kill_and_compare(
        options.recipe, options.kills, options.world_size, options.seed, options.ask, options.overrides
    )


if __name__ == "__main__":
    main()
