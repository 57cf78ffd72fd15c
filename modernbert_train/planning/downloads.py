"""Downloads of a run per machine, and whether the cache can hold the shards that are read at the same time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from modernbert_train.config import DataConfig, format_bytes
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.order import GROUP_SHARDS
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.data.sharing import streams_of_rank
from modernbert_train.store.split import comes_through_cache

log = logging.getLogger(__name__)


def check_downloads(
    data: DataConfig, phases: Sequence[PhaseRows], inputs: Inputs, world_size: int, ranks_per_machine: int
) -> None:
    """Log what each machine downloads, and check the limit of the cache.

    Args:
        data: the recipe's section.
        phases: what each phase reads.
        inputs: the opened stores.
        world_size: number of ranks.
        ranks_per_machine: number of ranks that share a cache.

    Raises:
        ValueError: the cache cannot hold the shards that are shuffled together.
    """
    shard_bytes = {
        name: inputs.reader.shard_bytes(split)
        for name, split in inputs.train.items()
        if comes_through_cache(split)
    }
    if not shard_bytes:
        return
    total = sum(int(sizes.sum()) for sizes in shard_bytes.values())
    plan = phases[0].plan
    nodes_per_machine = assign_nodes(plan, world_size, ranks_per_machine)
    parts = [len(nodes) / plan.num_nodes for nodes in nodes_per_machine]
    log.info(
        "of %s in remote stores, each machine downloads %s per epoch into %s%s",
        format_bytes(total),
        format_bytes(int(total * max(parts))),
        data.cache.folder,
        "" if data.cache.limit_bytes is None else f", limited to {format_bytes(data.cache.limit_bytes)}",
    )
    # With fewer nodes than the recipe has, the stores are too small to be shared out.
    if plan.num_nodes == data.num_canonical_nodes and max(parts) > 1.001 / len(nodes_per_machine):
        log.warning(
            "data.num_canonical_nodes is %d on %d machines, so they download %s per epoch instead of %s each; in a new "
            "run, set it to a multiple of the number of machines (it decides the order of the data)",
            data.num_canonical_nodes,
            len(nodes_per_machine),
            ", ".join(format_bytes(int(total * part)) for part in parts),
            format_bytes(total // len(nodes_per_machine)),
        )
    if data.cache.limit_bytes is not None:
        largest = {name: int(sizes.max()) for name, sizes in shard_bytes.items()}
        num_nodes = max(len(nodes) for nodes in nodes_per_machine)
        at_once = max(_bytes_at_once(phase.plan, largest, num_nodes) for phase in phases)
        together = max(min(GROUP_SHARDS, len(shard_bytes[name])) * largest[name] for name in largest)
        _check_limit(data.cache.limit_bytes, together, 2 * at_once)


def assign_nodes(plan: Plan, world_size: int, ranks_per_machine: int) -> list[set[int]]:
    """Return the canonical nodes that each machine reads."""
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


def _bytes_at_once(plan: Plan, largest: dict[str, int], num_nodes: int) -> int:
    """Return the bytes of the remote shards that `num_nodes` nodes read at the same time."""
    return sum(count * largest.get(name, 0) for name, count in plan.shards_at_once(num_nodes).items())


def _check_limit(limit: int, together: int, smooth: int) -> None:
    """Compare the limit with the bytes of shards that are shuffled together, and of all that are read now and next."""
    if limit < together:
        raise ValueError(
            f"data.cache.limit_bytes is {format_bytes(limit)}, but {GROUP_SHARDS} shards are shuffled together, which "
            f"take {format_bytes(together)}: each shard would be downloaded again and again; set it to "
            f"{format_bytes(smooth)} or more"
        )
    if limit < smooth:
        log.warning(
            "data.cache.limit_bytes is %s: some shards will be downloaded more than once and too late; %s avoids this",
            format_bytes(limit),
            format_bytes(smooth),
        )
