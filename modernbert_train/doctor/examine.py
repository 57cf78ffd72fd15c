"""All checks, in the order of the report."""

from __future__ import annotations

import dataclasses

from modernbert_train.config import Recipe
from modernbert_train.doctor import kernels, machine, requirements
from modernbert_train.doctor.findings import Finding


def examine(recipe: Recipe | None) -> list[Finding]:
    """Check this machine and, given a recipe, whether it meets the recipe's requirements."""
    compiler = machine.compiler()
    if recipe is not None and recipe.training.compile and compiler.level == "warning":
        compiler = dataclasses.replace(compiler, level="problem")
    findings = [
        machine.python_version(),
        machine.torch_version(),
        machine.driver(),
        *machine.gpus(),
        *kernels.attention_kernels("auto" if recipe is None else recipe.training.attention_backend),
        compiler,
        *kernels.collectives(),
        machine.shared_memory(),
        machine.open_files(),
        machine.host_name(),
    ]
    if recipe is not None:
        findings += [*requirements.stores(recipe), requirements.disk(recipe)]
    return findings
