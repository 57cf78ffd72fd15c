"""A run that a fault befalls, and what comes of it."""

import random
import time
from pathlib import Path

from tests.helpers.faults import Launch
from tests.helpers.launching import wait_for_steps

STALL_SECONDS, RANK_SECONDS = 5, 10
# What a run may take to end: its limits, the launcher's patience with a stopped rank, and the pace of two busy cores.
END_SECONDS = 60
SETTINGS = (
    f"data.stall_seconds={STALL_SECONDS}",
    f"training.rank_timeout_seconds={RANK_SECONDS}",
    "training.save_every_tokens=4K",
    "model.num_hidden_layers=1",
    "evaluation.max_rows=1",
)


class Scene:
    """A run that a fault befalls, and what has come of it."""

    def __init__(self, folder: Path, run: Path, world_size: int, num_workers: int, seed: int) -> None:
        self.folder, self.run, self.disk = folder, run, run.parent
        self.recipe, self.store = folder / "tiny.yaml", folder / "store"
        self.world_size, self.num_workers = world_size, num_workers
        self.random = random.Random(seed)
        # Number of steps after which the fault happens.
        self.moment = self.random.randint(2, 14)
        self.launches: list[Launch] = []
        self.seconds = 0.0
        self.outcome = ""

    def launch(self, *arguments: str) -> Launch:
        run = ("train", str(self.recipe), f"run_folder={self.run}", f"data.num_workers={self.num_workers}")
        logs = self.folder / f"launch{len(self.launches)}"
        self.launches.append(Launch(logs, self.world_size, *run, *SETTINGS, *arguments))
        return self.launches[-1]

    def until_the_moment(self) -> Launch:
        launch = self.launch()
        wait_for_steps(self.run, self.moment, launch.started)
        return launch

    def killed(self) -> None:
        """Run until the moment, and kill all processes."""
        self.until_the_moment().kill()

    def ends(self, launch: Launch, code: int, *causes: str, silent: tuple[int, ...] = ()) -> None:
        """Check that a run ends in time, and that the last line of every rank but the silent ones names a cause."""
        started = time.monotonic()
        ended_with = launch.finish(END_SECONDS)
        self.seconds = time.monotonic() - started
        self.outcome = f"ended with {ended_with}, cause last"
        for rank, line in enumerate(launch.last_lines()):
            if rank not in silent:
                assert any(cause in line for cause in causes), f"rank {rank}: {line}\n{launch.log()}"
        assert ended_with == code, launch.log()

    def goes_on(self) -> None:
        """Check that the same command brings the run to its end."""
        launch, started = self.launch(), time.monotonic()
        assert launch.finish(240) == 0, launch.log()
        if not self.outcome:
            self.seconds = time.monotonic() - started
            self.outcome = "recovered"
