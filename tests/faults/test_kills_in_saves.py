"""Kills while a checkpoint is written, on a local disk and on a small one that fills up now and then."""

import os
import shutil
import time

import pytest

from tests.faults.scenes import Scene
from tests.helpers import faults
from tests.helpers.faults import until
from tests.helpers.kill import assert_same_run

NUM_KILLS = int(os.environ.get("FAULT_KILLS", "100"))  # on each disk
# Longer than the moment at which a checkpoint is written.
LONGEST_DELAY_SECONDS = 0.03


def kill_in_a_save(scene: Scene) -> str:
    """Start the run, and kill it in one of its first saves; return how it has ended."""
    launch = scene.launch("training.save_every_tokens=1K")
    skipped = scene.random.randint(0, 3)
    seen: set[str] = set()

    def is_saving() -> bool:
        seen.update(path.name for path in scene.run.glob("checkpoints/.saving-*"))
        return len(seen) > skipped or not launch.is_running()

    assert until(is_saving, 240, poll_seconds=0.0005), launch.log()
    time.sleep(scene.random.uniform(0, LONGEST_DELAY_SECONDS))
    if not launch.is_running():
        if launch.finish(10) == 0:
            return "finished"
        assert all("error: " in line and "No space left on device" in line for line in launch.last_lines())
        return "disk full"
    launch.kill()
    return "killed"


@pytest.mark.faults
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("small_disk", [False, True], ids=["local disk", "small disk"])
def test_kills_in_saves(make_scene, undisturbed, small_disk, record_property):
    scene = make_scene(1, 1, seed=int(small_disk), small_disk=small_disk)
    endings = {"killed": 0, "disk full": 0, "finished": 0}
    started = time.monotonic()
    while endings["killed"] + endings["disk full"] < NUM_KILLS:
        is_full = small_disk and scene.random.random() < 0.4
        filler = faults.fill(scene.disk, leave_bytes=scene.random.randint(0, 2_000_000)) if is_full else None
        ending = kill_in_a_save(scene)
        endings[ending] += 1
        if filler is not None:
            filler.unlink()
        if ending == "finished":
            assert_same_run(scene.run, undisturbed(1))
            shutil.rmtree(scene.run)
    assert not any(launch.processes_left() or launch.memory_left() for launch in scene.launches)
    scene.goes_on()
    assert_same_run(scene.run, undisturbed(1))
    outcome = ", ".join(f"{count} {ending}" for ending, count in endings.items() if count) + "; recovered"
    record_property(
        "fault",
        {
            "kind": f"kills in saves, {'small' if small_disk else 'local'} disk",
            "ranks": 1,
            "workers": 1,
            "outcome": outcome,
            "seconds": time.monotonic() - started,
            "processes": 0,
            "memory": 0,
        },
    )
