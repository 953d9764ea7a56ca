"""What a whole run needs that is carried out in a process of its own, as a search's trial or a frontier's point."""

from __future__ import annotations

from dataclasses import replace

from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.machines import placement
from sparring.cluster.machines.fitting import Bundle, Node

HEAD = 0.01  # CPUs of its own process, which only waits; a share of nothing would shift the agents' bundles


def bundles_of(config: RunConfig, nodes: list[Node], *, what: str = "a run") -> list[Bundle]:
    """Bundles of one run; on Ray the first one is its own process's, of a local team the only one.

    Raises:
        NoResources: not one run would fit, for which Ray would wait for ever.
    """
    wanted, own = placement.on_device(config.device, config.placement, config.agents)
    if config.team == "ray":
        head = Bundle(what, HEAD)
        return [head, *placement.plan(list(config.method.roles()), wanted, nodes, own=own, beside=[head])]
    alone = replace(wanted, gpus_per_agent=wanted.gpus_per_agent or 0.0)
    return placement.plan([what], alone, nodes)
