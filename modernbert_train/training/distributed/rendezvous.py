"""How the ranks of a run find one another, before torch joins them.

torch by itself waits half an hour for a rank that never comes and does not name it, and hangs where launchers were told
different world sizes. So the ranks meet first, at the store torch will use as well.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

from composer.utils import dist
from torch.distributed import PrefixStore, Store, TCPStore

from modernbert_train.training.distributed.ranks import numbers

TIMEOUT_SECONDS = 1_800.0  # Composer's 300 s end a run whose first compilation or checkpoint is slow
_POLL_SECONDS = 0.2
_LINGER_SECONDS = 3.0  # for which a rank that stops all others stays: rank 0 holds what they read


def join(device: str) -> None:
    """Make this process one of the ranks. ValueError if the launchers do not agree on who they are."""
    if "GROUP_RANK" in os.environ:
        os.environ.setdefault(
            "NODE_RANK", os.environ["GROUP_RANK"]
        )  # torchrun's name of what Composer asks for
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun's agents have met already
        rank = int(os.environ["RANK"])
        # Kept until torch has one of its own at this address; on rank 0 the two share the port.
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=rank == 0,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,
        )
        meet(PrefixStore("meeting", store), rank, world_size, TIMEOUT_SECONDS)
    dist.initialize_dist(device, timeout=TIMEOUT_SECONDS)


def meet(store: Store, rank: int, world_size: int, seconds: float) -> None:
    """Wait until all ranks are there, and are as many as each of them was told.

    ValueError, on every rank that is there: two ranks of one number, another world size than that of rank 0, or ranks
    that have not come after so many seconds.
    """
    host = socket.gethostname()
    if store.add(f"number {rank}", 1) > 1:
        other = store.get(f"host {rank}").decode()
        _stop(
            store,
            f"rank {rank} was started on {other} and on {host}; give every node a --node_rank of its own",
        )
    store.set(f"host {rank}", host)
    if rank == 0:
        store.set("world size", str(world_size))
    _wait(store, ["world size"], seconds, lambda: "rank 0 has not come; see its log")
    if (expected := int(store.get("world size"))) != world_size:
        first = store.get("host 0").decode()
        _stop(
            store,
            f"world size is {expected} on rank 0 ({first}) and {world_size} on rank {rank} ({host}); "
            "start every node with the same --world_size",
        )
    store.set(f"here {rank}", "")  # said by those alone that agree with rank 0

    def missing() -> str:
        absent = [other for other in range(world_size) if not store.check([f"here {other}"])]
        return (
            f"of {world_size} ranks, {numbers(absent)} have not come after {seconds:g} seconds; see the logs of their "
            "nodes, and that these reach MASTER_ADDR"
        )

    _wait(store, [f"here {other}" for other in range(world_size)], seconds, missing)


def _wait(store: Store, keys: list[str], seconds: float, complaint) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not store.check(keys):
        if store.check(["stop"]):
            _end(store.get("stop").decode())
        if time.monotonic() > deadline:
            _stop(store, complaint())
        time.sleep(_POLL_SECONDS)


def _stop(store: Store, reason: str) -> None:
    store.set("stop", reason)
    _end(reason)


def _end(reason: str) -> None:
    time.sleep(_LINGER_SECONDS)
    raise ValueError(reason)
