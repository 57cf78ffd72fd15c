"""Loading of the checkpoint that a run goes on from."""

from __future__ import annotations

import warnings
from pathlib import Path

from composer import Callback, Logger, State

from modernbert_train.checkpoints.checkpoint import read_state
from modernbert_train.common.errors import explain
from modernbert_train.common.text import one_line


class LoadCheckpoint(Callback):
    """Loads a checkpoint that `restart.find_checkpoint` has checked, where Composer would load `load_path`.

    Composer's own way to load runs the code that a pickle may hold, and takes weights that lack some of the model's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def before_load(self, state: State, logger: Logger) -> None:
        name = state.run_name  # the recipe may have another since
        content = read_state(self._path, mapped=False)
        try:
            with warnings.catch_warnings():
                # of callbacks that have no state in it: this one, and those that the recipe has added
                warnings.simplefilter("ignore")
                state.load_state_dict(content, logger, strict=True)
        except Exception as error:  # whatever may be wrong with a file that others wrote
            if explain(error) is not None:  # no memory, another rank
                raise
            raise ValueError(
                f"{self._path}: no run can resume from it ({one_line(error):.300}); restore the original file"
            ) from error
        state.run_name = name
