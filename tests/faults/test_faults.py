"""Faults at random moments of a run: each ends it in time, with the cause as the last line, or changes nothing.

After every fault and its repair, the same command goes on; the run must then equal the undisturbed one bit for bit.
`make test-faults` runs them all and prints a table (conftest.py); `make test` runs the few that are marked as quick.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.common.processes import INTERRUPTED_EXIT_CODE, KILLED_EXIT_CODE, REQUEUE_EXIT_CODE
from tests.faults.scenes import END_SECONDS, RANK_SECONDS, Scene
from tests.helpers import faults
from tests.helpers.faults import until
from tests.helpers.kill import assert_same_run
from tests.helpers.launching import read_steps


def signalled(scene: Scene, number: int, code: int) -> None:
    launch = scene.until_the_moment()
    os.kill(scene.random.choice(launch.rank_pids), number)
    scene.ends(launch, code, "stopped and saved after step")


def sigterm(scene: Scene) -> None:
    signalled(scene, signal.SIGTERM, REQUEUE_EXIT_CODE)


def sigusr1(scene: Scene) -> None:
    signalled(scene, signal.SIGUSR1, REQUEUE_EXIT_CODE)


def ctrl_c(scene: Scene) -> None:
    signalled(scene, signal.SIGINT, INTERRUPTED_EXIT_CODE)


def rank_killed(scene: Scene) -> None:
    launch = scene.until_the_moment()
    rank = scene.random.randrange(scene.world_size)
    os.kill(launch.rank_pids[rank], signal.SIGKILL)
    code = KILLED_EXIT_CODE if scene.world_size > 1 else 256 - signal.SIGKILL
    scene.ends(launch, code, "error: another rank has ended", "lost", silent=(rank,))


def worker_killed(scene: Scene) -> None:
    launch = scene.until_the_moment()
    os.kill(scene.random.choice(launch.workers()), signal.SIGKILL)
    scene.ends(launch, 1, "a data loader worker was killed")


def launcher_killed(scene: Scene) -> None:
    launch = scene.until_the_moment()
    started = time.monotonic()
    os.kill(launch.started.pid, signal.SIGKILL)
    assert until(lambda: not launch.processes_left(), END_SECONDS)
    scene.seconds, scene.outcome = time.monotonic() - started, "saved"
    assert all("stopped and saved after step" in line for line in launch.last_lines())


def rank_stopped(scene: Scene) -> None:
    launch = scene.until_the_moment()
    rank = scene.random.randrange(scene.world_size)
    os.kill(launch.rank_pids[rank], signal.SIGSTOP)
    cause = f"error: rank {rank}" if rank else "error: rank 0 has not answered for"
    scene.ends(launch, KILLED_EXIT_CODE, cause, silent=(rank,))


def rank_stopped_for_a_while(scene: Scene) -> None:
    """A process that goes on, as after Ctrl-Z and `fg`, has not waited, whatever the clock says."""
    launch = scene.until_the_moment()
    for process in launch.rank_pids:
        os.kill(process, signal.SIGSTOP)
    time.sleep(1.2 * RANK_SECONDS)
    for process in launch.rank_pids:
        os.kill(process, signal.SIGCONT)
    assert launch.finish(240) == 0, launch.log()


def worker_stopped(scene: Scene) -> None:
    launch = scene.until_the_moment()
    worker = scene.random.choice(launch.workers())
    os.kill(worker, signal.SIGSTOP)
    scene.ends(launch, 1, f"(process {worker}): longer than data.stall_seconds allows")


def read_hangs(scene: Scene) -> None:
    launch = scene.until_the_moment()
    rank = scene.random.randrange(scene.world_size)
    faults.plant(launch, "hang", rank)
    scene.ends(launch, 1, "longer than data.stall_seconds allows")
    assert all(f"rank {rank} (" in line for line in launch.last_lines())


def read_fails(scene: Scene) -> None:
    launch = scene.until_the_moment()
    faults.plant(launch, "eio", scene.random.randrange(scene.world_size))
    scene.ends(launch, 1, "planted.mds: Input/output error; check the storage")
    assert "Traceback" not in launch.log()


def loader_has_a_defect(scene: Scene) -> None:
    launch = scene.until_the_moment()
    rank = scene.random.randrange(scene.world_size)
    faults.plant(launch, "defect", rank)
    scene.ends(launch, 1, "KeyError")
    assert "Traceback" in (launch.folder / f"rank{rank}.log").read_text()


def disk_full_in_a_save(scene: Scene) -> None:
    launch = scene.until_the_moment()
    filler = faults.fill(scene.disk, leave_bytes=100_000)
    scene.ends(launch, 1, ".pt: No space left on device; free some space")
    filler.unlink()


def disk_full_in_metrics(scene: Scene) -> None:
    launch = scene.until_the_moment()
    filler = faults.fill(scene.disk, leave_bytes=0)
    scene.ends(launch, 1, "No space left on device; free some space")
    filler.unlink()


def disk_full_at_the_start(scene: Scene) -> None:
    filler = faults.fill(scene.disk, leave_bytes=0)
    scene.ends(scene.launch(), 1, "No space left on device; free some space")
    filler.unlink()


def checkpoints_read_only(scene: Scene) -> None:
    scene.moment = max(scene.moment, 6)  # after the first checkpoint
    launch = scene.until_the_moment()
    with faults.read_only(scene.run / "checkpoints"):
        scene.ends(launch, 1, "Read-only file system; give this user access")


def file_size_limit(scene: Scene) -> None:
    launch = scene.until_the_moment()
    faults.limit_files(launch.rank_pids[0], scene.random.randint(1_000, 500_000))
    scene.ends(launch, 1, "File too large; raise the largest size of a file (`ulimit -f")


def run_folder_renamed(scene: Scene) -> None:
    launch = scene.until_the_moment()
    scene.run.rename(scene.folder / "elsewhere")
    scene.ends(launch, 1, "No such file or directory; it, or a folder above it, was moved or deleted")
    shutil.rmtree(scene.run, ignore_errors=True)  # begun anew by a save at the same moment
    (scene.folder / "elsewhere").rename(scene.run)


def store_deleted(scene: Scene) -> None:
    launch = scene.until_the_moment()
    scene.store.rename(scene.folder / "elsewhere")
    scene.ends(launch, 2, "restore or prepare the store again", "put it back")
    (scene.folder / "elsewhere").rename(scene.store)


def shard_truncated(scene: Scene) -> None:
    scene.killed()
    shard = scene.random.choice(sorted(scene.store.glob("*/train/*.mds")))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: scene.random.randrange(len(whole))])
    scene.ends(scene.launch(), 2, "shard")
    shard.write_bytes(whole)


def shard_with_another_bit(scene: Scene) -> None:
    scene.killed()
    shard = scene.random.choice(sorted(scene.store.glob("*/train/*.mds")))
    whole = shard.read_bytes()
    faults.flip_a_bit(shard, scene.random.random())
    scene.ends(scene.launch(), 2, "shard")
    shard.write_bytes(whole)


def newest_checkpoint(scene: Scene, damage: Callable[[Path], object]) -> None:
    scene.moment = max(scene.moment, 9)  # with a checkpoint before the newest
    scene.killed()
    damage(list_checkpoints(scene.run)[-1])


def newest_checkpoint_deleted(scene: Scene) -> None:
    newest_checkpoint(scene, Path.unlink)


def newest_checkpoint_truncated(scene: Scene) -> None:
    def truncate(file: Path) -> None:
        os.truncate(file, scene.random.randrange(file.stat().st_size))

    newest_checkpoint(scene, truncate)


def newest_checkpoint_with_another_bit(scene: Scene) -> None:
    newest_checkpoint(scene, lambda file: faults.flip_a_bit(file, scene.random.random()))


def newest_marker_damaged(scene: Scene) -> None:
    newest_checkpoint(
        scene, lambda file: faults.flip_a_bit(file.with_suffix(".json"), scene.random.random() / 10)
    )


def all_checkpoints_damaged(scene: Scene) -> None:
    scene.moment = max(scene.moment, 6)
    scene.killed()
    folder = scene.run / "checkpoints"
    shutil.copytree(folder, scene.folder / "copy")
    for file in list_checkpoints(scene.run):
        faults.flip_a_bit(file, scene.random.random())
    scene.ends(scene.launch(), 2, "none of its")
    shutil.rmtree(folder)
    (scene.folder / "copy").rename(folder)


def killed_in_a_save(scene: Scene) -> None:
    launch = scene.until_the_moment()
    until(lambda: list(scene.run.glob("checkpoints/.saving-*")), 10, poll_seconds=0.0005)
    time.sleep(scene.random.uniform(0, 0.03))
    launch.kill()


def killed_in_pruning(scene: Scene) -> None:
    scene.moment = max(scene.moment, 6)  # the third checkpoint makes the first one too many
    launch = scene.until_the_moment()
    oldest = list_checkpoints(scene.run)[0]
    until(lambda: not oldest.exists(), 10, poll_seconds=0.0005)
    launch.kill()


def killed_twice(scene: Scene) -> None:
    scene.killed()
    launch = scene.launch()
    time.sleep(scene.random.uniform(0, 3))
    launch.kill()


def second_run(scene: Scene) -> None:
    launch = scene.until_the_moment()
    for process in launch.rank_pids:  # so that the first run is not over before the second begins
        os.kill(process, signal.SIGSTOP)
    scene.ends(scene.launch(), 2, "in which another run is active")
    for process in launch.rank_pids:
        os.kill(process, signal.SIGCONT)
    assert launch.finish(240) == 0, launch.log()


WITH_WORKERS = (worker_killed, worker_stopped)
WITH_RANKS = (rank_stopped,)
ON_A_SMALL_DISK = (disk_full_in_a_save, disk_full_in_metrics, disk_full_at_the_start, checkpoints_read_only)
KINDS = (
    *(sigterm, sigusr1, ctrl_c, rank_killed, worker_killed, launcher_killed, rank_stopped, worker_stopped),
    *(
        rank_stopped_for_a_while,
        read_hangs,
        read_fails,
        loader_has_a_defect,
        *ON_A_SMALL_DISK,
        file_size_limit,
    ),
    *(run_folder_renamed, store_deleted, shard_truncated, shard_with_another_bit, newest_checkpoint_deleted),
    *(newest_checkpoint_truncated, newest_checkpoint_with_another_bit, newest_marker_damaged),
    *(all_checkpoints_damaged, killed_in_a_save, killed_in_pruning, killed_twice, second_run),
)
QUICK = ((worker_stopped, 0), (read_fails, 0))
SEEDS = range(int(os.environ.get("FAULT_SEEDS", "3")))


@pytest.fixture
def scene(make_scene: Callable[..., Scene], kind: Callable[[Scene], None], seed: int) -> Scene:
    choose = random.Random(f"{kind.__name__} {seed}")
    world_size = choose.choice((2, 2, 4) if kind in WITH_RANKS else (1, 1, 2, 4))
    num_workers = choose.randint(1 if kind in WITH_WORKERS else 0, 2)
    return make_scene(world_size, num_workers, choose.randrange(2**32), small_disk=kind in ON_A_SMALL_DISK)


def cases() -> list:
    quick = [pytest.param(kind, seed) for kind, seed in QUICK]
    others = [
        pytest.param(kind, seed, marks=[pytest.mark.faults])
        for kind in KINDS
        for seed in SEEDS
        if (kind, seed) not in QUICK
    ]
    return quick + others


@pytest.mark.parametrize(("kind", "seed"), cases())
def test_fault(kind, seed, scene, undisturbed, record_property):
    kind(scene)
    processes = [process for launch in scene.launches for process in launch.processes_left()]
    memory = [file for launch in scene.launches for file in launch.memory_left()]
    assert not processes
    assert not memory
    scene.goes_on()
    lines = assert_same_run(scene.run, undisturbed(scene.world_size))
    assert lines > len(read_steps(scene.run)) > 0
    record_property(
        "fault",
        {
            "kind": kind.__name__.replace("_", " "),
            "ranks": scene.world_size,
            "workers": scene.num_workers,
            "outcome": scene.outcome,
            "seconds": scene.seconds,
            "processes": len(processes),
            "memory": len(memory),
        },
    )
