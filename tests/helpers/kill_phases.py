"""Kill a training run in each of its phases, restart it each time, and compare it with an uninterrupted run.

    python -m tests.helpers.kill_phases RECIPE [OVERRIDES] [--rounds 2] [--world-size 2] [--seed 0]

Like `tests.helpers.kill`, but each kill comes after a random step of the next phase; in every second round, it comes
during the save after that step. The recipe must log every step.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from modernbert_train.config import Recipe, load_recipe
from modernbert_train.schedule import PhaseSchedule, build_schedule
from tests.helpers.kill import assert_same_run, command_line, kill, launch, wait


def kill_phases(recipe_path: Path, rounds: int, world_size: int, seed: int, overrides: list[str]) -> None:
    reference, run = (recipe_path.parent / name for name in ("undisturbed", "killed"))
    for folder in (reference, run):
        shutil.rmtree(folder, ignore_errors=True)
    recipe = load_recipe(recipe_path, [*overrides, f"run_folder={run}"])
    wait(launch(load_recipe(recipe_path, [*overrides, f"run_folder={reference}"]), world_size))
    random.seed(seed)
    killed = dict.fromkeys(recipe.phases, 0)
    for number in range(rounds):
        for phase in build_schedule(recipe).phases:
            while not kill_in_phase(recipe, phase, world_size, during_save=number % 2 == 1):
                pass
            killed[phase.name] += 1
        wait(launch(recipe, world_size))
        lines = assert_same_run(run, reference)
        print(f"{lines} lines of metrics and all weights equal, bit for bit", flush=True)
        shutil.rmtree(run)
    print(f"killed: {', '.join(f'{count} x in {name}' for name, count in killed.items())}")


def kill_in_phase(recipe: Recipe, phase: PhaseSchedule, world_size: int, during_save: bool) -> bool:
    """Start the run and kill it in the phase; return False, and delete the run, if the kill came too late."""
    run, end = Path(recipe.run_folder), phase.first_step + phase.num_steps
    saved = steps_saved(run)
    done = end
    if saved < end - 1:
        step = random.randint(max(saved, phase.first_step) + 1, end - 1)
        kill_after(launch(recipe, world_size), run, step, during_save)
        done = steps_done(run)
        left = [path.name for path in run.glob("checkpoints/.saving-*")] or "no save cut off"
        print(f"{phase.name}: from step {saved} to {done}, saved {steps_saved(run)}, {left}", flush=True)
    if done < end:
        assert done > phase.first_step
        return True
    shutil.rmtree(run)
    return False


def kill_after(processes: list[int], run: Path, step: int, during_save: bool) -> None:
    """Kill all ranks after `step`, or during the next save after it, unless the run ends before."""
    inode = _inode(run)  # of the file written by an earlier start
    while not (_inode(run) != inode and steps_done(run) >= step and (not during_save or _is_saving(run))):
        if os.waitpid(processes[0], os.WNOHANG)[0]:
            wait(processes[1:])
            return
        time.sleep(0.003)
    kill(processes)


def _inode(run: Path) -> int | None:
    """Return the inode of the metrics: a resumed run replaces the file with one that ends at its checkpoint."""
    file = run / "metrics.jsonl"
    return file.stat().st_ino if file.exists() else None


def _is_saving(run: Path) -> bool:
    return any(run.glob("checkpoints/.saving-*"))


def steps_done(run: Path) -> int:
    """Return the last step in the metrics."""
    if not (run / "metrics.jsonl").exists():
        return 0
    lines = (
        (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    )  # the last line may be incomplete
    return json.loads(lines[-1])["step"] if lines else 0


def steps_saved(run: Path) -> int:
    """Return the step of the newest checkpoint."""
    return max(
        (int(path.stem.removeprefix("step-")) for path in run.glob("checkpoints/step-*.pt")), default=0
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with these arguments; None: those of this process."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    kill_phases(options.recipe, options.rounds, options.world_size, options.seed, options.overrides)


if __name__ == "__main__":
    main()
