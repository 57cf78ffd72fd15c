"""Hours of training that is preempted every ten minutes: nothing grows. `SOAK_MINUTES=120 make test-slow`."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from modernbert_train.common.processes import REQUEUE_EXIT_CODE
from modernbert_train.common.text import markdown_table
from tests.helpers.faults import Launch
from tests.helpers.launching import read_steps, wait_for_steps

MINUTES = float(os.environ.get("SOAK_MINUTES", "4"))
LEG_SECONDS = 60 * min(10.0, MINUTES / 4)
ENDLESS = (
    "phases.pretrain.tokens=100B",
    "phases.extension=null",
    "training.save_every_tokens=32K",
    "training.ema_half_life_tokens=100K",
    "training.log_every_steps=10",
    "evaluation.every_tokens=64K",
)
# Of the resident memory, for caches of allocators.
MOST_GROWTH, MOST_MEGABYTES = 1.05, 20


@dataclass
class Measured:
    """What the ranks and workers of a run use."""

    megabytes: list[float]
    files: list[int]
    threads: list[int]
    shared_memory: int
    checkpoint_files: int

    @classmethod
    def of(cls, launch: Launch, run: Path) -> "Measured":
        processes = [Path(f"/proc/{process}") for process in [*launch.rank_pids, *launch.workers()]]
        status = [
            dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            for process in processes
        ]
        return cls(
            [int(values["VmRSS"].split()[0]) / 1024 for values in status],
            [len(os.listdir(process / "fd")) for process in processes],
            [int(values["Threads"]) for values in status],
            len(launch.memory_left()),
            len(os.listdir(run / "checkpoints")),
        )

    def row(self) -> list[str]:
        numbers = (
            ", ".join(f"{n:.0f}" for n in values) for values in (self.megabytes, self.files, self.threads)
        )
        return [*numbers, str(self.shared_memory), str(self.checkpoint_files)]

    def check_no_more_than(self, before: "Measured") -> None:
        for now, then in zip(self.megabytes, before.megabytes, strict=True):
            assert now < MOST_GROWTH * then + MOST_MEGABYTES
        assert max(now - then for now, then in zip(self.files, before.files, strict=True)) <= 2
        assert max(now - then for now, then in zip(self.threads, before.threads, strict=True)) <= 1
        assert self.shared_memory == 0
        assert self.checkpoint_files <= 10  # four checkpoints, and one that is being written


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 1200)
def test_nothing_grows(make_scene, request):
    scene = make_scene(2, 1, seed=0)
    started, rows, measured = time.monotonic(), [], []
    while time.monotonic() - started < 60 * MINUTES - LEG_SECONDS / 2:
        leg_started, steps = time.monotonic(), _num_steps(scene.run)
        launch = scene.launch(*ENDLESS)
        wait_for_steps(scene.run, steps + 10, launch.started)
        time.sleep(LEG_SECONDS / 5)
        for at_the_end in (False, True):
            if at_the_end:
                time.sleep(max(0.0, leg_started + LEG_SECONDS - time.monotonic()))
            measured.append(Measured.of(launch, scene.run))
            when = f"{(time.monotonic() - started) / 60:.1f}"
            rows.append([when, str(10 * _num_steps(scene.run)), *measured[-1].row()])
        os.kill(scene.random.choice(launch.rank_pids), signal.SIGTERM)
        scene.ends(launch, REQUEUE_EXIT_CODE, "stopped and saved after step")
        assert not launch.processes_left()
        assert not launch.memory_left()
    table = markdown_table(
        ["minutes", "steps", "MB", "open files", "threads", "shared memory", "checkpoint files"], rows
    )
    file = request.config.rootpath / "build/soak.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(table + "\n")
    print(table)
    for before, after in zip(measured[::2], measured[1::2], strict=True):
        after.check_no_more_than(before)
    measured[-1].check_no_more_than(measured[1])


def _num_steps(run: Path) -> int:
    return len(read_steps(run)) if (run / "metrics.jsonl").exists() else 0
