"""What all ranks must have in common before the first step. A mismatch stops them all, and names ranks and values.

Nodes are set up one by one: another checkout, another torch, a store copied from an older one, an override typed on one
node alone. Each would train something, and nobody would know what.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed
from composer.utils import dist

from modernbert_train.checkpoints.provenance import git_commit, make_run_folder, package_versions
from modernbert_train.config import Recipe, SkipConfig
from modernbert_train.config.comparison import recipe_settings
from modernbert_train.data.inputs import open_cache
from modernbert_train.store.manifest import MANIFEST_NAME, load_tokenizer_info
from modernbert_train.store.opening import open_store, open_tokenizer
from modernbert_train.training.distributed.ranks import numbers, on_rank_zero

Facts = dict[str, str]  # name -> value; "device" must differ, all others must not

_REMEDIES = {
    "recipe": "start every node with the same recipe and the same overrides",
    "data": "copy stores, tokenizer and data.skip.documents_file to every node from the same place",
    "code": "check out the same commit on every node",
    "package": "install requirements.lock on every node",
    "world size": "start every node with the same --world_size",
}
_MACHINES_OWN = "data.cache."  # where it has room, and how patient it is
# A new folder may stay hidden from a node that looked for it before: network file systems remember that for a while.
_SEEN_WITHIN_SECONDS = 60.0


def agree(recipe: Recipe, device: str) -> None:
    """Compare what all ranks are about to do: one collective, and the same ValueError everywhere if they differ.

    Before stores are opened: a rank that failed there would leave the others waiting for it.
    """
    error = None
    try:
        own = facts(recipe, device)
    except ValueError as failure:  # a node without the store, say
        own, error = {}, failure
    mine = (socket.gethostname(), own, None if error is None else str(error))
    everyone = [mine] * dist.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    if error is not None:
        raise error
    failed = [f"rank {rank} ({host}): {text}" for rank, (host, _, text) in enumerate(everyone) if text]
    if problems := failed or disagreements([(host, facts) for host, facts, _ in everyone]):
        raise ValueError("\n".join(problems))


def facts(recipe: Recipe, device: str) -> Facts:
    """What this rank is about to do, and with what. ValueError for a tokenizer or store that is not there."""
    cache = open_cache(recipe.data)
    stores = {
        source.store: open_store(source.store, (), cache).path for source in recipe.data.sources.values()
    }
    tokenizer = load_tokenizer_info(open_tokenizer(recipe.data.tokenizer, cache))
    return {
        "world size": str(dist.get_world_size()),
        "code": f"{git_commit() or 'no commit'}, files {_code_hash()}",
        **{f"package {name}": version for name, version in package_versions().items()},
        **{
            f"recipe {key}": repr(value)
            for key, value in recipe_settings(recipe).items()
            if not key.startswith(_MACHINES_OWN)
        },
        f"data {recipe.data.tokenizer}": tokenizer.fingerprint[:16],
        # With the sums of the lengths of all documents: what the plan is made of.
        **{f"data {store}": _hash((path / MANIFEST_NAME).read_bytes()) for store, path in stores.items()},
        **_skipped_documents(recipe.data.skip),
        "device": _device_id(device),
    }


def _skipped_documents(skip: SkipConfig) -> Facts:
    """The file that names them, which the recipe names only by its path."""
    if skip.documents_file is None:
        return {}
    file = Path(skip.documents_file)
    return {f"data {file}": _hash(file.read_bytes()) if file.is_file() else "missing"}


def disagreements(everyone: Sequence[tuple[str, Facts]]) -> list[str]:
    """One line for each fact that ranks do not share; `everyone` holds host and facts of every rank, in order."""
    problems = []
    names = dict.fromkeys(name for _, facts in everyone for name in facts)
    for name in names:
        ranks_by_value: dict[str, list[int]] = {}
        for rank, (_, facts) in enumerate(everyone):
            ranks_by_value.setdefault(facts.get(name, "missing"), []).append(rank)
        if name == "device":
            problems += _shared_devices(ranks_by_value, everyone)
        elif len(ranks_by_value) > 1:
            values = [f"{value} on {_where(ranks, everyone)}" for value, ranks in ranks_by_value.items()]
            remedy = next(text for kind, text in _REMEDIES.items() if name.startswith(kind))
            problems.append(f"{name} is {', '.join(values[:-1])} and {values[-1]}; {remedy}")
    return problems


def check_run_folder(run: Path, wait_seconds: float = _SEEN_WITHIN_SECONDS) -> None:
    """That every rank sees what rank 0 writes into the run folder. ValueError names the ranks that do not."""
    if dist.get_world_size() == 1:
        return
    token = on_rank_zero(lambda: _write_token(run))
    deadline = time.monotonic() + wait_seconds
    while not (seen := (run / token).exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    mine = (socket.gethostname(), seen)
    everyone: list[tuple[str, bool]] = [mine] * dist.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    if dist.get_global_rank() == 0:
        (run / token).unlink()
    blind = [rank for rank, (_, seen) in enumerate(everyone) if not seen]
    if blind:
        raise ValueError(
            f"run_folder is {run}, in which {_where(blind, everyone)} cannot see what rank 0 ({everyone[0][0]}) "
            "writes; name a folder on storage that all nodes have mounted"
        )


def _write_token(run: Path) -> str:
    make_run_folder(run)
    name = f".seen-by-all-{uuid.uuid4().hex}"
    (run / name).touch()
    return name


def _where(ranks: Sequence[int], everyone: Sequence[tuple[str, object]]) -> str:
    hosts = dict.fromkeys(everyone[rank][0] for rank in ranks)
    return f"rank{'s' if len(ranks) > 1 else ''} {numbers(ranks)} ({', '.join(hosts)})"


def _shared_devices(ranks_by_value: dict[str, list[int]], everyone: Sequence[tuple[str, Facts]]) -> list[str]:
    return [
        f"device {value} is that of {_where(ranks, everyone)}, and a GPU serves one rank; start as many ranks on a "
        "node as it has GPUs, and let CUDA_VISIBLE_DEVICES be the same for all of them"
        for value, ranks in ranks_by_value.items()
        if value and len(ranks) > 1
    ]


def _device_id(device: str) -> str:
    """What tells this rank's GPU from all others, also of other nodes; a CPU is for everyone."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if device == "gpu" else ""


def _code_hash() -> str:
    """Of the files that run: a commit says nothing of what was changed since, and an image has none."""
    package = Path(__file__).parents[2]
    files = sorted(package.rglob("*.py"))
    return _hash(b"".join(os.fsencode(path.relative_to(package)) + path.read_bytes() for path in files))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
