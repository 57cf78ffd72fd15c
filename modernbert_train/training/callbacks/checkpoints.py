"""Saving of checkpoints."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from composer import Callback, Logger, State
from composer.utils import dist
from composer.utils.checkpoint import save_checkpoint

from modernbert_train.checkpoints.checkpoint import checkpoint_path, finish_checkpoint, prune, unfinished_path
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.rewind import describe_way_back
from modernbert_train.checkpoints.run_files import LOCK_FILE, POSITIONS_FILE, append_line, drop_after
from modernbert_train.checkpoints.source import nonfinite
from modernbert_train.common.errors import naming
from modernbert_train.common.waiting import waiting
from modernbert_train.config import ModelConfig
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.schedule import RunSchedule
from modernbert_train.training.callbacks.base import step_of
from modernbert_train.training.distributed.ranks import on_rank_zero
from modernbert_train.training.distributed.rendezvous import LATER_SECONDS
from modernbert_train.training.run import Run


class SaveCheckpoints(Callback):
    """Writes a checkpoint at intervals and at the end of each phase, atomically, and removes old ones."""

    def __init__(self, run: Run, loader: PlannedLoader) -> None:
        self._run = run
        self._rows = loader.dataset
        self._saved_step = -1

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            drop_after(self._run.folder / POSITIONS_FILE, step_of(state))

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        every_tokens = self._run.recipe.training.save_every_tokens
        if self._run.schedule.is_due(step_of(state) - 1, every_tokens):
            self.save(state)

    def save(self, state: State) -> None:
        """Save now, unless this step has been saved already. Collective.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        step = step_of(state)
        if step == self._saved_step:
            return
        path = checkpoint_path(self._run.folder, step)
        if nonfinite(state.model.named_parameters()):
            raise FloatingPointError(
                f"weights are not finite after step {step}, so they were not saved; start again with a lower "
                f"learning_rate or optimizer.gradient_clip_norm. {describe_way_back(self._run.folder)}"
            )
        # Longer than other ranks may be silent, which this rank would wait for here.
        timeout = self._run.recipe.training.rank_timeout_seconds + LATER_SECONDS
        with waiting(lambda: f"{path} to be written", timeout, "training.rank_timeout_seconds"):
            # Collective: every rank contributes its position in the data; rank 0 writes.
            with naming(path):
                save_checkpoint(state, str(unfinished_path(path)), ignore_keys=_drop_random_state)
            rows = self._rows.state_dict(num_samples=0, from_beginning=False)
            on_rank_zero(lambda: self._finish(path, step, rows))
        self._saved_step = step

    def _finish(self, path: Path, step: int, rows: dict[str, Any]) -> None:
        # Composer makes the folders of a file, so a run whose folder was renamed would go on in a new one.
        if not (self._run.folder / LOCK_FILE).exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._run.folder))
        positions = [position for _, position in sorted(rows["positions"].items())]
        line = {"step": step, "fingerprint": rows["fingerprint"], "positions": positions}
        # Before the checkpoint, so that every checkpoint has its line.
        append_line(self._run.folder / POSITIONS_FILE, line)
        fingerprint = self._run.inputs.tokenizer.fingerprint
        info = checkpoint_info(self._run.schedule, step, self._run.recipe.model, fingerprint)
        finish_checkpoint(path, replace(info, run=self._run.id))
        prune(self._run.folder, self._run.recipe.training.keep_checkpoints, step)


def _drop_random_state(content: dict[str, Any]) -> None:
    """Leave out the state of the random generators: `Schedule` seeds them before each step."""
    del content["rng"]


def checkpoint_info(
    schedule: RunSchedule, step: int, model: ModelConfig, tokenizer_fingerprint: str
) -> CheckpointInfo:
    """Return the facts of a checkpoint after `step` steps; its phase is that of the last finished step."""
    phase = schedule.phase_of(max(0, step - 1))
    phase_step = step - phase.first_step
    return CheckpointInfo(
        step=step,
        tokens=schedule.tokens_before(step),
        total_tokens=schedule.total_tokens,
        phase=phase.name,
        phase_step=phase_step,
        keep=phase_step == phase.num_steps,
        context_tokens=phase.config.context_tokens,
        global_rope_theta=phase.config.global_rope_theta,
        local_rope_theta=phase.config.local_rope_theta,
        objective=phase.config.objective,
        model=model,
        tokenizer_fingerprint=tokenizer_fingerprint,
    )
