"""All checks in order: first what the others stand on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from modernbert_train.config import Recipe
from modernbert_train.doctor import kernels, machine, recipe
from modernbert_train.doctor.findings import Finding


def examine(wanted: Recipe | None) -> list[Finding]:
    """Check this machine, and with a recipe what that asks of it."""
    compiler = machine.compiler()
    if wanted is not None and wanted.training.compile and compiler.level == "warning":
        compiler = dataclasses.replace(compiler, level="problem")  # the recipe asks for torch.compile
    findings = [
        machine.python_version(),
        machine.torch_version(),
        machine.driver(),
        *machine.gpus(),
        *kernels.attention_kernels("auto" if wanted is None else wanted.training.attention_backend),
        compiler,
        *kernels.collectives(),
        machine.shared_memory(),
        machine.shared_memory_leftovers(),
        machine.open_files(),
        machine.host_name(),
    ]
    if wanted is None:
        return [*findings, machine.clock(Path.cwd())]
    folder = recipe.existing(Path(wanted.run_folder))
    return [*findings, *recipe.stores(wanted), recipe.disk(wanted), machine.clock(folder)]
