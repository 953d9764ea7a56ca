"""Somebody else's job on a cluster of ``chaos.py``: takes all CPUs, or fills every object store, until it is killed.

python benchmarks/chaos_guest.py ADDRESS cpus|stores
"""

from __future__ import annotations

import sys
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SHARE = 0.9  # of an object store
PIECE = 2**20  # bytes of an object


@ray.remote(num_cpus=0)
class Holder:
    """Keeps objects in its node's store."""

    def fill(self, size: int) -> int:
        """So many bytes."""
        self.kept = [ray.put(bytes(PIECE)) for _ in range(size // PIECE)]
        return len(self.kept)


def main() -> None:
    address, what = sys.argv[1:]
    ray.init(address, logging_level=50)
    workers = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    kept: list[Any]
    if what == "cpus":
        bundles = [{"CPU": n["Resources"]["CPU"]} for n in workers]
        kept = [ray.util.placement_group(bundles, strategy="STRICT_SPREAD")]
    else:
        on = [NodeAffinitySchedulingStrategy(n["NodeID"], soft=False) for n in workers]
        kept = [Holder.options(scheduling_strategy=s).remote() for s in on]
        sizes = [int(SHARE * n["Resources"]["object_store_memory"]) for n in workers]
        ray.get([h.fill.remote(size) for h, size in zip(kept, sizes, strict=True)])
    while kept:
        time.sleep(1.0)


if __name__ == "__main__":
    main()
