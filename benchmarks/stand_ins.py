"""Agents that wait instead of computing: their verbs take a share of so many milliseconds on the clock, without a core, and say what
a true step said. So the cost of exchange, calls and waiting shows on any machine as it would beside a GPU's step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sparring.agents.lanes import Lanes
from sparring.agents.spec import AgentSpec
from sparring.trainers.types import Metrics

TRUE = 2  # steps that are computed: the first pays for what is slow once, the second says what each verb's share is


@dataclass(frozen=True, kw_only=True)
class StandInSpec(AgentSpec):
    """A specification whose agent waits."""

    compute_ms: float = 25.0

    def build(self, lanes: Lanes = Lanes()) -> Any:
        return StandIn(AgentSpec.build(self, lanes), self.compute_ms / 1e3)


class StandIn:
    """An agent's verbs, played."""

    def __init__(self, agent: Any, seconds: float) -> None:
        self._agent, self._seconds = agent, seconds
        self._calls: dict[int, list[tuple[Any, float]]] = {}  # by true step: what a verb gave, and its time
        self._next = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def images_of(self, t: int) -> int:
        """Without making the batch."""
        return int(self._agent.batches.batch_size)

    def craft(self, t: int, **seen: Any) -> Any:
        return self._played("craft", t, seen)

    def answer(self, t: int, **seen: Any) -> Any:
        return self._played("answer", t, seen)

    def predict(self, t: int, **seen: Any) -> Any:
        return self._played("predict", t, seen)

    def learn(self, t: int, **seen: Any) -> Metrics:
        made: Metrics = self._played("learn", t, seen)
        if t >= TRUE:
            made = self._agent.meter.metrics(made.values, self._agent.batches.device, {})
            self._next = 0
        return made

    def report(self, t: int) -> Metrics:
        self._next = 0
        made: Metrics = self._agent.report(t)
        return made

    def _played(self, verb: str, t: int, seen: dict[str, Any]) -> Any:
        if t < TRUE:
            began = time.perf_counter()
            made = getattr(self._agent, verb)(t, **seen)
            self._calls.setdefault(t, []).append((made, time.perf_counter() - began))
            return made
        calls = self._calls[TRUE - 1]
        made, took = calls[self._next]
        self._next += 1
        with self._agent.meter.timed(verb):
            time.sleep(self._seconds * took / sum(seconds for _, seconds in calls))
        return made
