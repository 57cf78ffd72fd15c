"""What a run will download, on which machine, and whether the cache can hold what is read at the same time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from modernbert_train.config import DataConfig, format_bytes
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.loader import streams_of_rank
from modernbert_train.data.order import GROUP_SHARDS
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.store.split import comes_through_cache

log = logging.getLogger(__name__)


def check_downloads(
    data: DataConfig, phases: Sequence[PhaseRows], inputs: Inputs, world_size: int, ranks_per_machine: int
) -> None:
    """Say what each machine downloads. ValueError: the cache cannot hold the shards that are shuffled together."""
    shard_bytes = {
        name: inputs.reader.shard_bytes(split)
        for name, split in inputs.train.items()
        if comes_through_cache(split)
    }
    if not shard_bytes:
        return
    total = sum(int(of_split.sum()) for of_split in shard_bytes.values())
    nodes = nodes_of_machines(phases[0].plan, world_size, ranks_per_machine)
    parts = [len(of_machine) / data.num_canonical_nodes for of_machine in nodes]
    log.info(
        "of %s in remote stores, a machine downloads %s in a pass, into %s%s",
        format_bytes(total),
        format_bytes(int(total * max(parts))),
        data.cache.folder,
        "" if data.cache.limit_bytes is None else f", which holds {format_bytes(data.cache.limit_bytes)}",
    )
    if max(parts) > 1.001 / len(nodes):
        log.warning(
            "data.num_canonical_nodes is %d on %d machines, so they download %s in a pass, where %s each would do; let "
            "it be a multiple of the machines (in a new run: it decides the order of the data)",
            data.num_canonical_nodes,
            len(nodes),
            ", ".join(format_bytes(int(total * part)) for part in parts),
            format_bytes(total // len(nodes)),
        )
    if data.cache.limit_bytes is not None:
        largest = {name: int(of_split.max()) for name, of_split in shard_bytes.items()}
        at_once = max(
            _bytes_at_once(phase.plan, largest, max(len(of_machine) for of_machine in nodes))
            for phase in phases
        )
        together = max(min(GROUP_SHARDS, len(shard_bytes[name])) * largest[name] for name in largest)
        _check_limit(data.cache.limit_bytes, together, 2 * at_once)


def nodes_of_machines(plan: Plan, world_size: int, ranks_per_machine: int) -> list[set[int]]:
    """The canonical nodes that each machine reads."""
    return [
        plan.nodes_of(
            [
                stream
                for rank in range(first, min(first + ranks_per_machine, world_size))
                for stream in streams_of_rank(plan.num_streams, rank, world_size)
            ]
        )
        for first in range(0, world_size, ranks_per_machine)
    ]


def _bytes_at_once(plan: Plan, largest: dict[str, int], nodes: int) -> int:
    """Return the bytes of the remote shards that `nodes` nodes read while all streams are at the same shuffle block."""
    return sum(count * largest.get(name, 0) for name, count in plan.shards_at_once(nodes).items())


def _check_limit(limit: int, together: int, smooth: int) -> None:
    """`together`: of a shard group; `smooth`: of all that is read now and next."""
    if limit < together:
        raise ValueError(
            f"data.cache.limit_bytes is {format_bytes(limit)}: the blocks of {GROUP_SHARDS} shards are shuffled "
            f"together, which take {format_bytes(together)}, so that each shard would be downloaded over and over; "
            f"set it to {format_bytes(smooth)} or more"
        )
    if limit < smooth:
        log.warning(
            "data.cache.limit_bytes is %s: some shards will be downloaded more than once, and not ahead of time; with "
            "%s, none will",
            format_bytes(limit),
            format_bytes(smooth),
        )
