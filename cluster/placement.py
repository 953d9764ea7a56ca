"""From roles to bundles: a pure plan, checked against what each node has, then reserved as one placement group.

Ray waits for ever on a request that nobody can satisfy, so the plan is compared with the nodes first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.errors import NoResources, UsageError
from cluster.settings import Placement

Resources = dict[str, float]


def plan(agents: int, placement: Placement, nodes: Sequence[Resources]) -> list[Resources]:
    """One bundle per agent: GPUs where the cluster has any (unless told otherwise), and CPUs.

    Args:
        agents: number of agents.
        placement: what each gets.
        nodes: resources of every node alive, ``{"CPU": 8.0, "GPU": 2.0}``.

    Raises:
        NoResources: no placement on these nodes can hold the bundles; says what is needed and present.
    """
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    gpus = placement.gpus_per_agent if placement.gpus_per_agent is not None else float(has_gpus)
    bundle = {k: v for k, v in (("CPU", placement.cpus_per_agent), ("GPU", gpus)) if v > 0}
    if not bundle:
        raise UsageError("an agent needs a share of something: set --placement.cpus-per-agent above 0")
    fits = [_fits(node, bundle) for node in nodes]
    room = {"STRICT_PACK": max(fits, default=0), "STRICT_SPREAD": sum(f >= 1 for f in fits)}
    if room.get(placement.strategy, sum(fits)) < agents:
        raise NoResources(_explain(agents, bundle, placement, nodes))
    return [dict(bundle) for _ in range(agents)]


def nodes_alive() -> list[Resources]:
    """CPUs and GPUs of every node alive."""
    return [
        {k: float(v) for k, v in node["Resources"].items() if k in ("CPU", "GPU")}
        for node in ray.nodes()
        if node["Alive"]
    ]


def this_machine() -> Resources:
    """An upper bound of what a Ray started here would have; it may see fewer CPUs in a container."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def reserve(bundles: Sequence[Resources], placement: Placement, *, timeout: float = 8.0) -> PlacementGroup:
    """The bundles as one placement group, ready.

    Raises:
        NoResources: not ready in time: something else holds the resources.
    """
    group = placement_group([dict(b) for b in bundles], strategy=placement.strategy)
    if not group.wait(timeout):
        state = placement_group_table(group).get("state")
        remove_placement_group(group)
        raise NoResources(
            f"the cluster has the resources but they are in use: {len(bundles)} agents of {_words(bundles[0])} were not free "
            f"within {timeout:g} s (placement group {state}; free now: {_words(ray.available_resources())}). "
            "Wait for other runs to end, or ask for less with --placement.cpus-per-agent 0.5"
        )
    return group


def _fits(node: Resources, bundle: Resources) -> int:
    """How many bundles a node holds."""
    return min(math.floor(node.get(k, 0) / v + 1e-9) for k, v in bundle.items())


def _explain(agents: int, bundle: Resources, placement: Placement, nodes: Sequence[Resources]) -> str:
    present = "; ".join(f"node {i}: {_words(node)}" for i, node in enumerate(nodes)) or "no node"
    total = {k: sum(math.floor(n.get(k, 0) / v + 1e-9) for n in nodes) for k, v in bundle.items()}
    scarce = min(total, key=lambda k: total[k])
    flag = f"--placement.{'gpus' if scarce == 'GPU' else 'cpus'}-per-agent"
    fix = f"set {flag} {_share(agents, [n.get(scarce, 0) for n in nodes]):g}"
    if placement.strategy.startswith("STRICT"):
        fix = f"set --placement.strategy {placement.strategy.removeprefix('STRICT_')}, or {fix}"
    return f"{agents} agents need {_words(bundle)} each ({placement.strategy}); present: {present}. Add resources, or {fix}"


def _share(agents: int, present: Sequence[float]) -> float:
    """The largest share of two decimals with which all agents fit on the nodes; 0 when there is nothing to share."""
    for hundredths in range(100, 0, -1):
        share = hundredths / 100
        if sum(math.floor(p / share + 1e-9) for p in present) >= agents:
            return share
    return 0.0


def _words(resources: Resources) -> str:
    return ", ".join(f"{v:g} {k}" for k, v in sorted(resources.items()) if k in ("CPU", "GPU")) or "nothing"
