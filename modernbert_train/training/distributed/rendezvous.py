"""The rendezvous of the ranks, before torch joins them into a process group.

torch waits 30 minutes for a missing rank without naming it, and hangs when launchers disagree on the world size. So the
ranks first find each other through a store at the address that torch will use as well.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta

from composer.utils import dist
from torch.distributed import PrefixStore, Store, TCPStore

from modernbert_train.training.distributed.ranks import numbers

# By how much torch's own time limit for the ranks is longer than that of the watch, which says who is missing.
LATER_SECONDS = 30.0
_POLL_SECONDS = 0.2
# Seconds that a failing rank stays alive: rank 0 holds the store from which the others read the reason.
_LINGER_SECONDS = 3.0


def join(device: str, timeout_seconds: float) -> Store | None:
    """Make this process one of the ranks. Collective.

    Args:
        device: Composer's name, "gpu" or "cpu".
        timeout_seconds: How long ranks wait for one another.

    Returns:
        A store for messages between the ranks; None for a single rank.

    Raises:
        ValueError: the launchers disagree on ranks or world size, or a rank is missing.
    """
    if "GROUP_RANK" in os.environ:
        # Composer needs the node rank under this name; torchrun sets GROUP_RANK.
        os.environ.setdefault("NODE_RANK", os.environ["GROUP_RANK"])
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    store = _open_store(timeout_seconds) if world_size > 1 else None
    # torchrun's agents have had a rendezvous of their own.
    if store is not None and "TORCHELASTIC_RUN_ID" not in os.environ:
        await_ranks(PrefixStore("rendezvous", store), int(os.environ["RANK"]), world_size, timeout_seconds)
    dist.initialize_dist(device, timeout=timeout_seconds + LATER_SECONDS)
    return store


def _open_store(timeout_seconds: float) -> Store:
    """Open a store at the address that torch will use as well; on rank 0 the two share the port."""
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        # torchrun's agent may hold the store, also over a restart of its ranks.
        is_master=os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=timedelta(seconds=timeout_seconds),
        wait_for_workers=False,
        multi_tenant=True,
    )
    return PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def await_ranks(store: Store, rank: int, world_size: int, seconds: float) -> None:
    """Wait until all ranks are present, and check that they agree on the world size.

    Args:
        store: shared by all ranks, and used for nothing else.
        rank: rank of this process.
        world_size: number of ranks according to the launcher of this process.
        seconds: how long to wait for missing ranks.

    Raises:
        ValueError: on every rank that is present: two processes have the same rank, the world sizes differ, or ranks
            are still missing after `seconds`.
    """
    host = socket.gethostname()
    if store.add(f"starts of rank {rank}", 1) > 1:
        other = store.get(f"host of rank {rank}").decode()
        _fail(
            store,
            f"rank {rank} was started on {other} and on {host}; give every node a --node_rank of its own",
        )
    store.set(f"host of rank {rank}", host)
    if rank == 0:
        store.set("world size", str(world_size))
    _wait_for(store, ["world size"], seconds, lambda: "rank 0 did not start; see its log")
    if (expected := int(store.get("world size"))) != world_size:
        first = store.get("host of rank 0").decode()
        _fail(
            store,
            f"world size is {expected} on rank 0 ({first}) and {world_size} on rank {rank} ({host}); "
            "start every node with the same --world_size",
        )
    # Only ranks that agree with rank 0 are counted as present.
    present = [f"rank {other} is present" for other in range(world_size)]
    store.set(present[rank], "")

    def missing_ranks() -> str:
        missing = [other for other, key in enumerate(present) if not store.check([key])]
        return (
            f"of {world_size} ranks, {numbers(missing)} did not start within {seconds:g} seconds; see the logs of "
            "their nodes, and check that these nodes reach MASTER_ADDR"
        )

    _wait_for(store, present, seconds, missing_ranks)


def _wait_for(store: Store, keys: list[str], seconds: float, describe_problem: Callable[[], str]) -> None:
    """Wait until all keys are set, some rank has failed, or the time is up."""
    deadline = time.monotonic() + seconds
    while not store.check(keys):
        if store.check(["failure"]):
            _raise(store.get("failure").decode())
        if time.monotonic() > deadline:
            _fail(store, describe_problem())
        time.sleep(_POLL_SECONDS)


def _fail(store: Store, reason: str) -> None:
    store.set("failure", reason)
    _raise(reason)


def _raise(reason: str) -> None:
    time.sleep(_LINGER_SECONDS)
    raise ValueError(reason)
