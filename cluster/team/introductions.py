"""How agents that exchange directly, and lanes of one agent, find each other: what each says of itself goes through Ray's calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError

from sparring.agents.meeting import PeerLost
from sparring.cluster.team import failures
from sparring.cluster.team.ray_handle import Lane

MEETINGS = 3  # tries


def introduce(lane: Lane, place: Mapping[str, str], *, start: float, timeout: float) -> None:
    """Let the agents of a lane find each other: their addresses go through Ray's calls, so nobody else learns them.

    Args:
        place: address of each one's host.
        start: seconds in which all must have come.
        timeout: seconds after which a silent one counts as lost, later.
    """
    for together in (True, False):  # False: as if everyone were on a host of its own
        if again(partial(_met, lane, place, start, timeout, together=together)):
            return


def again(meet: Callable[[], Any]) -> Any:
    """Meet, once more with new sockets where a stranger took somebody's place."""
    for left in reversed(range(MEETINGS)):
        try:
            return meet()
        except RayTaskError as error:
            if left == 0 or not isinstance(failures.unwrap(error), PeerLost):
                raise
    raise AssertionError


def _met(lane: Lane, place: Mapping[str, str], start: float, timeout: float, *, together: bool) -> bool:
    ranks = {role: i for i, role in enumerate(lane)}
    near = {a: [b for b in lane if b != a and together and place[a] == place[b]] for a in lane}
    apart = any(len(others) < len(lane) - 1 for others in near.values())
    far = {role: (ranks[role], len(lane), place[role]) if apart else None for role in lane}
    asked = [h.actor.offer.remote(near[role], far[role], start) for role, h in lane.items()]
    offers = dict(zip(lane, ray.get(asked, timeout=start), strict=True))
    met = dict(
        zip(lane, ray.get([h.actor.meet.remote(offers, timeout) for h in lane.values()], timeout=start), strict=True)
    )
    if not all(sight.near for sight in met.values()):
        return False
    devices = {role: offer.device for role, offer in offers.items()}
    openers = {role: [other for other, sight in met.items() if role in sight.opened] for role in lane}
    settled = [h.actor.settle.remote(devices, openers[role], timeout) for role, h in lane.items()]
    ray.get(settled, timeout=start)
    return True


def averaging(lanes: Sequence[Lane], nodes: Mapping[tuple[str, int], str], *, start: float, timeout: float) -> None:
    """Let the lanes of every agent find each other, likewise.

    Args:
        nodes: role and lane -> address of its host.
        start: seconds in which all must have come.
        timeout: seconds after which a silent one counts as lost, later.
    """
    again(partial(_averaging, lanes, nodes, start, timeout))


def _averaging(lanes: Sequence[Lane], nodes: Mapping[tuple[str, int], str], start: float, timeout: float) -> None:
    each = [(role, i, handle.actor) for i, lane in enumerate(lanes) for role, handle in lane.items()]
    opened = ray.get([a.open.remote(i, len(lanes), nodes[role, i], start) for role, i, a in each], timeout=start)
    addresses: dict[str, dict[str, bytes]] = {role: {} for role in lanes[0]}
    for (role, _, _), found in zip(each, opened, strict=True):
        addresses[role] |= found
    ray.get([a.join.remote(addresses[role], timeout) for role, _, a in each], timeout=start)
