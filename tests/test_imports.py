"""What must start at once, or run where torch is not installed, imports none of the large libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LARGE = "{'torch', 'streaming', 'composer', 'transformers', 'datasets', 'wandb', 'matplotlib'}"


@pytest.mark.parametrize(
    "module",
    [
        "modernbert_train.cli",
        "modernbert_train.config",
        "modernbert_train.store.manifest",
        "modernbert_train.schedule",
        "modernbert_train.planning.dry_run",
        "data_prep.cli",
    ],
)
def test_no_large_library_is_imported(module):
    code = f"import sys, {module}; print(sorted({LARGE} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
