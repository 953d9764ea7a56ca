"""An actor as a method's ``step`` sees it, and what several actors of one agent come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from sparring.agents.exchange import flatten
from sparring.agents.program import asked
from sparring.cluster.team.team import Kind
from sparring.trainers.types import Metrics


class RayHandle:
    """One actor's verbs. Every reference is also noted for the team's failure analysis."""

    def __init__(self, actor: Any, note: Callable[[Any], Any]) -> None:
        self.actor, self._note = actor, note
        self.metrics: Any = None

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Any:
        return self._note(self.actor.craft.remote(t, attack, **flatten(hints)))

    def answer(self, t: int, on: Any = None) -> Any:
        return self._note(self.actor.answer.remote(t, **asked(on)))

    def predict(self, t: int, **seen: Any) -> Any:
        return self._note(self.actor.predict.remote(t, **flatten(seen)))

    def learn(self, t: int, **seen: Any) -> None:
        self.metrics = self._note(self.actor.learn.remote(t, **flatten(seen)))


class Lane(dict[str, RayHandle]):
    """One lane's handles by role: the team that a method's ``step`` sees."""


def joined(kind: Kind, lanes: Sequence[Any]) -> Any:
    """One agent's result from those of its lanes: the first one's, with the bytes that all published and the files of all."""
    first = lanes[0]
    if len(lanes) == 1:
        return first
    if kind == "save" or None in lanes:
        return None
    if kind == "written":
        return {name: sha for files in lanes for name, sha in files.items()}
    return replace(first, exchange_bytes=sum(m.exchange_bytes for m in lanes))


def by_step(spans: Mapping[str, Sequence[Sequence[Metrics]]]) -> list[dict[str, Metrics]]:
    """Role -> lanes -> steps, as a list of steps."""
    each = {role: [joined("step", step) for step in zip(*lanes, strict=True)] for role, lanes in spans.items()}
    return [dict(zip(each, step, strict=True)) for step in zip(*each.values(), strict=True)]


def introduce(lane: Lane, place: Mapping[str, str], *, start: float, timeout: float) -> None:
    """Let the agents of a lane find each other: their addresses go through Ray's calls, so nobody else learns them.

    Args:
        place: address of each one's host.
        start: seconds in which all must have come.
        timeout: seconds after which a silent one counts as lost, later.
    """
    for together in (True, False):  # False: as if everyone were on a host of its own
        if _met(lane, place, start, timeout, together=together):
            return


def _met(lane: Lane, place: Mapping[str, str], start: float, timeout: float, *, together: bool) -> bool:
    ranks = {role: i for i, role in enumerate(lane)}
    near = {a: [b for b in lane if b != a and together and place[a] == place[b]] for a in lane}
    apart = any(len(others) < len(lane) - 1 for others in near.values())
    far = {role: (ranks[role], len(lane), place[role]) if apart else None for role in lane}
    asked = [h.actor.offer.remote(near[role], far[role], start) for role, h in lane.items()]
    offers = dict(zip(lane, ray.get(asked, timeout=start), strict=True))
    met = ray.get([h.actor.meet.remote(offers, ranks, timeout) for h in lane.values()], timeout=start)
    ray.get([h.actor.settle.remote() for h in lane.values()], timeout=start)
    return all(met)


def averaging(lanes: Sequence[Lane], nodes: Mapping[tuple[str, int], str], *, start: float, timeout: float) -> None:
    """Let the lanes of every agent find each other, likewise.

    Args:
        nodes: role and lane -> address of its host.
        start: seconds in which all must have come.
        timeout: seconds after which a silent one counts as lost, later.
    """
    each = [(role, i, handle.actor) for i, lane in enumerate(lanes) for role, handle in lane.items()]
    opened = ray.get([a.open.remote(i, len(lanes), nodes[role, i], start) for role, i, a in each], timeout=start)
    addresses: dict[str, dict[str, bytes]] = {role: {} for role in lanes[0]}
    for (role, _, _), found in zip(each, opened, strict=True):
        addresses[role] |= found
    ray.get([a.join.remote(addresses[role], timeout) for role, _, a in each], timeout=start)
