"""A team's actors as the driver asks them: each by itself or, where a host has many, all of them through one coordinator there.

    driver  --- one call a host --->  coordinator  --- one call an actor --->  actors
            <--- all results, or the references whose errors the driver reads itself ---

A coordinator has no state but its place in the order of calls: a lost one is a lost process of the team like any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray

from sparring.agents.actors import Coordinator, Failed

Name: TypeAlias = tuple[str, int]  # role, lane
MANY: int = (
    8  # actors on one host from which on they have a coordinator: one process more, and one call instead of many
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call under way: of one actor, or of those that a coordinator asks."""

    names: tuple[Name, ...]
    ref: Any
    through: bool = False


@dataclass(slots=True)
class _Speaker:
    """A coordinator, and whom it speaks for in its order."""

    actor: Any
    names: tuple[Name, ...]
    turn: int = 0


class Crew:
    """All actors of a team."""

    def __init__(self) -> None:
        self._actors: dict[Name, Any] = {}
        self._speakers: list[_Speaker] = []

    def muster(
        self, actors: Mapping[Name, Any], nodes: Mapping[Name, str], there: Mapping[Name, Any], *, many: int | None
    ) -> None:
        """From now on ask these, of whom nothing is under way.

        Args:
            nodes: where each one is.
            there: options of an actor that is to be where this one is.
            many: from so many on, those of one host have a coordinator; None: never.
        """
        self.dismiss()
        self._actors = dict(actors)
        hosts: dict[str, list[Name]] = {}
        for name in actors:
            hosts.setdefault(nodes[name], []).append(name)
        for names in hosts.values():
            if many is not None and len(names) >= many:
                speaker = Coordinator.options(**there[names[0]]).remote([actors[name] for name in names])
                self._speakers.append(_Speaker(speaker, tuple(names)))

    def ask(self, verb: str, calls: Mapping[Name, tuple[Any, ...]], **same: Any) -> list[Asked]:
        """Call a verb of some actors, each with its arguments and the same keywords."""
        spoken_for = {name for speaker in self._speakers for name in speaker.names}
        asked = [
            Asked((name,), getattr(self._actors[name], verb).remote(*args, **same))
            for name, args in calls.items()
            if name not in spoken_for
        ]
        for speaker in self._speakers:
            places = [(i, calls[name]) for i, name in enumerate(speaker.names) if name in calls]
            if places:
                ref = speaker.actor.ask.remote(speaker.turn, verb, places, same)
                asked.append(Asked(tuple(speaker.names[i] for i, _ in places), ref, through=True))
                speaker.turn += 1
        return asked

    def gather(self, asked: Sequence[Asked], *, timeout: float) -> dict[Name, Any]:
        """What they answered; the first error is raised as its actor raised it."""
        ended = time.monotonic() + timeout
        found: dict[Name, Any] = {}
        for one, said in zip(asked, ray.get([one.ref for one in asked], timeout=timeout), strict=True):
            if isinstance(said, Failed):
                said = ray.get(said.refs, timeout=max(0.0, ended - time.monotonic()))
            found |= zip(one.names, said if one.through else [said], strict=True)
        return found

    def behind(self, refs: Sequence[Any]) -> list[Any]:
        """References with those of the actors behind a coordinator's, as far as it has told them."""
        found = list(refs)
        for ref in ray.wait(found, num_returns=len(found), timeout=0, fetch_local=False)[0] if found else []:
            try:
                said = ray.get(ref, timeout=1)
            except Exception:  # an actor's, which whoever asked looks at
                continue
            if isinstance(said, Failed):
                found += said.refs
        return list(dict.fromkeys(found))

    def dismiss(self) -> None:
        """End the coordinators."""
        for speaker in self._speakers:
            ray.kill(speaker.actor, no_restart=True)
        self._speakers.clear()
