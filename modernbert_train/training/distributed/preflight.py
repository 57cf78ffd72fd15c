"""Checks before the first step that all ranks are about to do the same.

Nodes are set up one by one: one may have another checkout, another torch, an older copy of a store, or an override of
its own. Training would run all the same, on a mixture of both. A mismatch stops all ranks, and the message names ranks
and values.
"""

from __future__ import annotations

import hashlib
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
from composer.utils import dist

from modernbert_train.checkpoints.provenance import code_hash, git_commit, make_run_folder, package_versions
from modernbert_train.common.errors import FAILED, WRONG, Explained, TransientError, explain
from modernbert_train.common.waiting import waiting
from modernbert_train.config import Recipe, validate
from modernbert_train.config.comparison import recipe_settings
from modernbert_train.data.inputs import Inputs, open_inputs
from modernbert_train.store.manifest import MANIFEST_NAME
from modernbert_train.training.distributed.ranks import numbers, on_rank_zero

Facts = dict[str, str]  # name -> value

_REMEDIES = {
    "recipe": "start every node with the same recipe and the same overrides",
    "data": "copy stores, tokenizer and data.skip.documents_file to every node from the same place",
    "code": "check out the same commit on every node",
    "package": "install requirements.lock on every node",
    "world size": "start every node with the same --world_size",
}
_DEVICE = "device"  # the one fact that must differ between ranks
_PER_MACHINE_SETTINGS = "data.cache."
# Network file systems cache for a while that a path does not exist.
_SEEN_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class RankReport:
    """What one rank tells all others."""

    host: str
    launch: Facts
    data: Facts
    error: Explained | None


def agree(recipe: Recipe, device: str) -> Inputs:
    """Open the inputs of the run on every rank, and check that all ranks are about to do the same.

    One collective exchanges facts and errors, so that a rank that fails leaves no other waiting for it.

    Returns:
        The opened inputs.

    Raises:
        ValueError: on every rank, with the same message: the recipe is invalid or its inputs cannot be opened on some
            rank, or the ranks differ.
    """
    inputs, data, error = None, Facts(), None
    try:
        with waiting(lambda: "tokenizer and stores to open", recipe.data.stall_seconds, "data.stall_seconds"):
            inputs = _open_inputs(recipe)
        data = data_facts(recipe, inputs)
    except (ValueError, OSError) as failure:
        error = explain(failure) or Explained(str(failure), WRONG)
    mine = RankReport(socket.gethostname(), launch_facts(recipe, device), data, error)
    reports = [mine] * dist.get_world_size()
    torch.distributed.all_gather_object(reports, mine)
    hosts = [report.host for report in reports]
    problems = disagreements(hosts, [report.launch for report in reports])
    errors = [report.error for report in reports]
    problems += _failures(hosts, errors) or disagreements(hosts, [report.data for report in reports])
    if problems:
        is_transient = any(error is not None and error.exit_code == FAILED for error in errors)
        raise (TransientError if is_transient else ValueError)("\n".join(problems))
    assert inputs is not None
    return inputs


def _open_inputs(recipe: Recipe) -> Inputs:
    if problems := validate(recipe, dist.get_world_size()):
        raise ValueError("\n".join(problems))
    return open_inputs(recipe)


def launch_facts(recipe: Recipe, device: str) -> Facts:
    """Return what this rank runs and with which settings: everything but the data."""
    return {
        "world size": str(dist.get_world_size()),
        "code": f"{git_commit() or 'no commit'}, files {code_hash()}",
        **{f"package {name}": version for name, version in package_versions().items()},
        **{
            f"recipe {key}": repr(value)
            for key, value in recipe_settings(recipe).items()
            if not key.startswith(_PER_MACHINE_SETTINGS)
        },
        _DEVICE: _device_id(device),
    }


def data_facts(recipe: Recipe, inputs: Inputs) -> Facts:
    """Return hashes of the data that this rank reads: tokenizer, manifests and the file of skipped documents.

    A manifest includes the sums of the lengths of all documents, which decide the order of the data.
    """
    facts = {f"data {recipe.data.tokenizer}": inputs.tokenizer.fingerprint[:16]}
    for store, manifest in inputs.manifests.items():
        facts[f"data {store}"] = _hash((manifest.path / MANIFEST_NAME).read_bytes())
    if recipe.data.skip.documents_file is not None:
        file = Path(recipe.data.skip.documents_file)
        facts[f"data {file}"] = _hash(file.read_bytes())
    return facts


def _failures(hosts: Sequence[str], errors: Sequence[Explained | None]) -> list[str]:
    """Return one message for each error; it names the ranks unless all have the same."""
    ranks_by_error: dict[str, list[int]] = {}
    for rank, error in enumerate(errors):
        if error is not None:
            ranks_by_error.setdefault(error.text, []).append(rank)
    return [
        error if len(ranks) == len(hosts) else f"{_where(ranks, hosts)}: {error}"
        for error, ranks in ranks_by_error.items()
    ]


def disagreements(hosts: Sequence[str], facts_per_rank: Sequence[Facts]) -> list[str]:
    """Return one message for each fact that the ranks do not share."""
    problems = []
    for name in dict.fromkeys(name for facts in facts_per_rank for name in facts):
        ranks_by_value: dict[str, list[int]] = {}
        for rank, facts in enumerate(facts_per_rank):
            ranks_by_value.setdefault(facts.get(name, "missing"), []).append(rank)
        if name == _DEVICE:
            problems += _shared_devices(ranks_by_value, hosts)
        elif len(ranks_by_value) > 1:
            values = [f"{value} on {_where(ranks, hosts)}" for value, ranks in ranks_by_value.items()]
            remedy = next(text for kind, text in _REMEDIES.items() if name.startswith(kind))
            problems.append(f"{name} is {', '.join(values[:-1])} and {values[-1]}; {remedy}")
    return problems


def check_run_folder(run: Path, wait_seconds: float = _SEEN_WITHIN_SECONDS) -> None:
    """Check that every rank sees what rank 0 writes into the run folder.

    Raises:
        ValueError: some ranks do not; it names them.
    """
    if dist.get_world_size() == 1:
        return
    token = on_rank_zero(lambda: _write_token(run))
    deadline = time.monotonic() + wait_seconds
    while not (seen := (run / token).exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    mine = (socket.gethostname(), seen)
    everyone = [mine] * dist.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    if dist.get_global_rank() == 0:
        (run / token).unlink()
    hosts = [host for host, _ in everyone]
    blind = [rank for rank, (_, seen) in enumerate(everyone) if not seen]
    if blind:
        raise ValueError(
            f"run_folder is {run}, in which {_where(blind, hosts)} cannot see what rank 0 ({hosts[0]}) "
            "writes; name a folder on storage that all nodes have mounted"
        )


def _write_token(run: Path) -> str:
    make_run_folder(run)
    name = f".seen-by-all-{uuid.uuid4().hex}"
    (run / name).touch()
    return name


def _where(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    names = dict.fromkeys(hosts[rank] for rank in ranks)
    return f"rank{'s' if len(ranks) > 1 else ''} {numbers(ranks)} ({', '.join(names)})"


def _shared_devices(ranks_by_value: dict[str, list[int]], hosts: Sequence[str]) -> list[str]:
    return [
        f"device {value} is shared by {_where(ranks, hosts)}, but each rank needs a GPU of its own; start as many "
        "ranks on a node as it has GPUs, with the same CUDA_VISIBLE_DEVICES for all of them"
        for value, ranks in ranks_by_value.items()
        if value and len(ranks) > 1
    ]


def _device_id(device: str) -> str:
    """Return the id of this rank's GPU, unique over all nodes; empty for a CPU, which ranks may share."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if device == "gpu" else ""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
