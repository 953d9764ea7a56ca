"""An actor as a method's ``step`` sees it, and what several actors of one agent come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
