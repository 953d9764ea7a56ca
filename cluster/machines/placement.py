"""From roles to bundles: a pure plan, checked against what each node has, then reserved as one placement group.

    roles, lanes, shares, labels --plan--> bundles --check against nodes--> one placement group --reserve--> ready

Ray waits for ever on a request that nobody can satisfy, so the plan is compared with the nodes first; ``placement.wait``
skips that for clusters that grow.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from sparring.cluster.config.settings import Own, Placement
from sparring.cluster.errors import NoResources, UsageError
from sparring.cluster.machines import head, stop
from sparring.cluster.machines.cores import usable
from sparring.cluster.machines.fitting import Bundle, Node, fits, words

SHARES = (1.0, 0.75, 0.66, 0.5, 0.4, 0.33, 0.25, 0.2, 0.16, 0.12, 0.1, 0.05, 0.02, 0.01)  # of one resource, as advice
WAIT = 8.0  # seconds for resources that are there but in use


def plan(
    roles: Sequence[str],
    placement: Placement,
    nodes: Sequence[Node],
    *,
    lanes: int = 1,
    own: Mapping[str, Own] | None = None,
    beside: Sequence[Bundle] = (),
) -> list[Bundle]:
    """One bundle per lane of every agent: GPUs where the cluster has any (unless told otherwise), CPUs, a label.

    Args:
        roles: names of the agents.
        placement: what each gets.
        nodes: every node alive.
        lanes: bundles per agent; those of one agent follow each other.
        own: what single agents get otherwise.
        beside: what must fit in the same group.

    Raises:
        NoResources: no placement on these nodes holds the bundles; says what is needed, present and to be changed.
        UsageError: an agent asks for nothing.
    """
    bundles = _bundles(roles, placement, nodes, lanes, own or {})
    if not fits([*beside, *bundles], nodes, placement.strategy) and not placement.wait:
        raise NoResources(_explain(roles, bundles, placement, nodes, lanes, own or {}, beside))
    return bundles


def _bundles(
    roles: Sequence[str], placement: Placement, nodes: Sequence[Node], lanes: int, own: Mapping[str, Own]
) -> list[Bundle]:
    default = placement.gpus_per_agent
    if default is None:
        default = float(any(node.resources.get("GPU", 0) > 0 for node in nodes))
        if placement.wait and not default:
            raise UsageError(
                "--wait needs --placement.gpus-per-agent as long as no node has a GPU: 1 to wait for nodes with GPUs, 0 to compute on CPUs"
            )
    made = []
    for role in roles:
        theirs = own.get(role, Own())
        gpus = default if theirs.gpus is None else theirs.gpus
        made += [Bundle(role, placement.cpus_per_agent, gpus, theirs.label or placement.label)] * lanes
    if lanes > 1 and any(0 < b.gpus < 1 for b in made):
        raise UsageError(
            f"lanes = {lanes} need a whole GPU each, or none: NCCL does not share one; set --placement.gpus-per-agent 1"
        )
    if not all(b.resources for b in made):
        raise UsageError("an agent needs a share of something: set --placement.cpus-per-agent above 0")
    return made


def nodes_alive() -> list[Node]:
    """Every node alive."""
    alive = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = {k: float(v) for k, v in node["Resources"].items() if k in ("CPU", "GPU")}
            labels = {k: v for k, v in node.get("Labels", {}).items() if not k.startswith("ray.io/node-id")}
            alive.append(Node(node["NodeManagerAddress"], resources, labels))
    return alive


def this_machine() -> Node:
    """What a Ray that we start here has."""
    import torch

    return Node("this machine", {"CPU": float(usable()), "GPU": float(torch.cuda.device_count())}, {})


def reserve(
    bundles: Sequence[Bundle],
    placement: Placement,
    *,
    timeout: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PlacementGroup:
    """The bundles as one placement group, ready.

    Args:
        timeout: seconds to wait, by default ``WAIT``, where ``placement.wait`` is less.
        say: told what is waited for, where that takes longer than it takes Ray to begin.

    Raises:
        NoResources: not ready in time: something else holds the resources, or no node came.
    """
    selectors = [b.selector for b in bundles]
    longest = max(WAIT if timeout is None else timeout, placement.wait)
    group = placement_group(
        [b.resources for b in bundles],
        strategy=placement.strategy,
        bundle_label_selector=selectors if any(selectors) else None,
    )
    try:
        ready = _ready(group, min(longest, WAIT))
        if not ready and longest > WAIT:
            free = words(ray.available_resources())
            say(f"waiting at most {longest:.0f} s for {_needs(bundles)} ({placement.strategy}); free now: {free}")
            ready = _ready(group, longest - WAIT)
    except BaseException:  # Ctrl-C while waiting: nothing may stay reserved
        release(group)
        raise
    if not ready:
        state = placement_group_table(group).get("state")
        remove_placement_group(group)
        present = nodes_alive()
        if not fits(bundles, present, placement.strategy):
            raise NoResources(
                f"no node came within {placement.wait:g} s that makes room: {_needs(bundles)} ({placement.strategy}); "
                f"present: {_present(present)}. Give --wait more seconds, or see why the autoscaler adds none: ray status"
            )
        raise NoResources(
            f"the cluster has the resources but they are in use: {_needs(bundles)}, not free within {longest:g} s "
            f"(placement group {state}; free now: {words(ray.available_resources())}). "
            "Wait for other runs to end (--wait SECONDS), or ask for less with --placement.cpus-per-agent 0.5"
        )
    return group


def release(group: PlacementGroup) -> None:
    """Give back what :func:`reserve` got."""
    if not head.lost():
        remove_placement_group(group)


def _ready(group: PlacementGroup, timeout: float) -> bool:
    """Wait in short turns, so that a signal is heard.

    Raises:
        Interrupted: it was one.
    """
    deadline = time.monotonic() + timeout
    while not group.wait(1):
        stop.heed("while it waited for resources")
        if time.monotonic() > deadline:
            return False
    return True


def on_device(device: str, placement: Placement, own: Mapping[str, Own]) -> tuple[Placement, dict[str, Own]]:
    """The same without GPUs where a run is to compute on the CPU."""
    if device != "cpu":
        return placement, dict(own)
    return replace(placement, gpus_per_agent=0.0), {role: replace(o, gpus=None) for role, o in own.items()}


def on_one_machine(placement: Placement, agents: int) -> tuple[Placement, str | None]:
    """The same for a machine of one's own: where there are fewer cores than agents, they share them; what is to be said then."""
    cores = usable()
    if agents <= cores or placement.cpus_per_agent != Placement().cpus_per_agent:
        return placement, None
    share = int(100 * cores / agents) / 100
    said = f"{agents} agents share this machine's {cores} core{'s' if cores > 1 else ''} ({share:g} each)"
    return replace(placement, cpus_per_agent=share), said


def _explain(
    roles: Sequence[str],
    bundles: Sequence[Bundle],
    placement: Placement,
    nodes: Sequence[Node],
    lanes: int,
    own: Mapping[str, Own],
    beside: Sequence[Bundle],
) -> str:
    need = f"{_needs([*beside, *bundles])} ({placement.strategy}); present: {_present(nodes)}"
    for bundle in bundles:
        if not any(node.labels.get(k) == v for node in nodes for k, v in bundle.selector.items()) and bundle.label:
            known = sorted({f"{k}={v}" for n in nodes for k, v in n.labels.items() if not k.startswith("ray.io/")})
            theirs = own.get(bundle.agent, Own()).label is not None
            flag = f"--agents.{bundle.agent.replace('_', '-')}.label" if theirs else "--placement.label"
            return (
                f"{need}. No node has the label {bundle.label}; labels here: {', '.join(known) or 'none'}. Change {flag}, or start "
                f"a node with: ray start --address HEAD:6379 --labels {bundle.label}"
            )
    fixes = []
    relaxed = placement.strategy.removeprefix("STRICT_")
    if relaxed != placement.strategy and fits([*beside, *bundles], nodes, relaxed):
        fixes.append(f"set --placement.strategy {relaxed}")
    shares = [s for s in (*SHARES, 0.0) if s or placement.cpus_per_agent]
    gpus = [s for s in shares if any(b.gpus for b in bundles) and (lanes == 1 or s in (0, 1))]
    fewer_gpus = [("gpus", s, replace(placement, gpus_per_agent=s)) for s in gpus]
    fewer_cpus = [("cpus", s, replace(placement, cpus_per_agent=s)) for s in shares if s]
    for name, share, less in [*fewer_gpus, *fewer_cpus]:
        if fits([*beside, *_bundles(roles, less, nodes, lanes, own)], nodes, placement.strategy):
            fixes.append(f"set --placement.{name}-per-agent {share:g}")
            break
    if lanes > 1:
        fixes.append("take fewer --lanes")
    fixes.append("add nodes (--wait SECONDS waits for them)")
    return f"{need}. {', or '.join(fixes)[0].upper()}{', or '.join(fixes)[1:]}"


def _needs(bundles: Sequence[Bundle]) -> str:
    """``2 agents need 1 CPU, 1 GPU each``; several kinds are joined by 'and'."""
    parts = []
    for kind, count in Counter(replace(b, agent="") for b in bundles).items():
        label = f" on a node with {kind.label}" if kind.label else ""
        (who,) = {b.agent for b in bundles if replace(b, agent="") == kind} if count == 1 else (f"{count} agents",)
        parts.append(f"{who} need{'s' if count == 1 else ''} {words(kind.resources)}{' each' * (count > 1)}{label}")
    return " and ".join(parts)


def _present(nodes: Sequence[Node]) -> str:
    return "; ".join(f"{node.name}: {words(node.resources)}" for node in nodes) or "no node"
