"""The team that a controller drives: one protocol, two classes that exchange the same bytes.

``LocalTeam`` (here) holds every agent in this process and needs no Ray: for debugging, a single GPU, a machine without
Ray. ``RayTeam`` (``cluster/team/ray_team.py``) holds references to actors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from sparring.agents.endpoint import Endpoint
from sparring.agents.exchange import flatten
from sparring.agents.lanes import Lanes
from sparring.agents.program import asked
from sparring.agents.spec import AgentSpec, Facts
from sparring.trainers.config import Measure
from sparring.trainers.methods.base import Method

Kind = Literal["step", "steps", "save", "written", "evaluate"]


@dataclass(slots=True)
class Pending:
    """Calls under way for step ``t``: one result per role to collect, and every reference made on the way."""

    kind: Kind
    t: int
    results: Any  # of the team's own kind
    refs: list[Any] = field(default_factory=list)
    error: Exception | None = None  # LocalTeam: what ``collect`` will raise
    steps: int = 1  # of kind ``steps``

    @property
    def trains(self) -> bool:
        """Whether it is one step, or several."""
        return self.kind in ("step", "steps")


@dataclass(frozen=True, slots=True)
class Failure:
    """Processes were lost or hang; all agents must go back to the last checkpoint."""

    reason: str  # one line for the log
    dead: frozenset[str] | None  # roles known to be dead; None when it may be anyone (a hang, a lost object)


class Team(Protocol):
    """What a controller needs. ``submit``, ``save``, ``written`` and ``evaluate`` queue calls; ``collect`` waits for them in order.

    Where ``spans``, several steps can be one call, and come back as a list of what each would have given.

    ``save`` copies what the step before left behind and is done when every agent has its copy. ``written`` says per agent
    the sha256 of its files, or None while they are being written, unless it may ``wait``.

    After an error, ``diagnose`` says whether processes were lost, ``revive`` replaces them (all for None) and ``restore``
    loads every agent from a checkpoint's folder.
    """

    spans: bool

    def __getitem__(self, role: str) -> Any: ...
    def describe(self) -> dict[str, Facts]: ...
    def submit(self, method: Method, t: int) -> Pending: ...
    def submit_span(self, t: int, steps: int) -> Pending: ...
    def save(self, t: int, folder: Path) -> Pending: ...
    def written(self, t: int, *, wait: bool) -> Pending: ...
    def evaluate(self, t: int, by: Measure) -> Pending: ...
    def collect(self, pending: Pending, *, timeout: float) -> Any: ...
    def change(self, t: int, specs: Sequence[AgentSpec], *, timeout: float) -> None: ...
    def restore(self, folder: Path, *, timeout: float, lr_factor: float = 1.0) -> None: ...
    def diagnose(self, error: Exception, refs: Sequence[Any]) -> Failure | None: ...
    def unwrap(self, error: Exception) -> BaseException: ...
    def leaving(self) -> dict[str, str]: ...  # nodes with agents that will soon be gone: id -> address
    def revive(self, roles: frozenset[str] | None, say: Callable[[str], None]) -> list[str]: ...
    def close(self) -> None: ...


def save_now(team: Team, t: int, folder: Path, *, timeout: float) -> dict[str, dict[str, str]]:
    """Save what step ``t - 1`` left behind and wait for the disk; per agent the sha256 of its files."""
    team.collect(team.save(t, folder), timeout=timeout)
    files: dict[str, dict[str, str]] = team.collect(team.written(t, wait=True), timeout=timeout)
    return files


class LocalHandle:
    """A handle whose references are the packed messages themselves."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.metrics: Any = None

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Any:
        return self.endpoint.craft(t, attack, **flatten(hints))

    def answer(self, t: int, on: Any = None) -> Any:
        return self.endpoint.answer(t, **asked(on))

    def predict(self, t: int, **seen: Any) -> Any:
        return self.endpoint.predict(t, **flatten(seen))

    def learn(self, t: int, **seen: Any) -> None:
        self.metrics = self.endpoint.learn(t, **flatten(seen))


class LocalTeam:
    """All agents in this process, one after the other, with as many threads as an actor would have."""

    spans = False

    def __init__(self, specs: Sequence[AgentSpec], lanes: Lanes = Lanes()) -> None:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(specs[0].threads)
        self._handles = {spec.me: LocalHandle(Endpoint(spec, lanes)) for spec in specs}

    def __getitem__(self, role: str) -> LocalHandle:
        return self._handles[role]

    def describe(self) -> dict[str, Facts]:
        return {role: h.endpoint.describe() for role, h in self._handles.items()}

    def submit(self, method: Method, t: int) -> Pending:
        def step() -> dict[str, Any]:
            for handle in self._handles.values():
                handle.metrics = None
            method.step(self, t)
            return {role: h.metrics or h.endpoint.report(t) for role, h in self._handles.items()}

        return self._now("step", t, step)

    def submit_span(self, t: int, steps: int) -> Pending:
        raise NotImplementedError("one step at a time")

    def save(self, t: int, folder: Path) -> Pending:
        def begin() -> dict[str, Any]:
            for role, handle in self._handles.items():
                handle.endpoint.save(t, str(folder / role))
            return {}

        return self._now("save", t, begin)

    def written(self, t: int, *, wait: bool) -> Pending:
        return self._now("written", t, lambda: {r: h.endpoint.written(t, wait=wait) for r, h in self._handles.items()})

    def evaluate(self, t: int, by: Measure) -> Pending:
        learners = {role: h for role, h in self._handles.items() if h.endpoint.agent.learns}
        return self._now("evaluate", t, lambda: {r: h.endpoint.evaluate(t, by) for r, h in learners.items()})

    def collect(self, pending: Pending, *, timeout: float) -> Any:
        if pending.error is not None:
            raise pending.error
        return pending.results

    def _now(self, kind: Kind, t: int, call: Callable[[], dict[str, Any]]) -> Pending:
        """Run at once; an error waits for ``collect``, so that what was done before it is taken in first, as on Ray."""
        try:
            return Pending(kind, t, call())
        except Exception as error:
            return Pending(kind, t, {}, error=error)

    def change(self, t: int, specs: Sequence[AgentSpec], *, timeout: float) -> None:
        for spec in specs:
            self._handles[spec.me].endpoint.change(t, spec)

    def restore(self, folder: Path, *, timeout: float, lr_factor: float = 1.0) -> None:
        for role, handle in self._handles.items():
            handle.endpoint.load(str(folder / role), lr_factor)

    def diagnose(self, error: Exception, refs: Sequence[Any]) -> Failure | None:
        return None  # an agent in this process cannot be lost without the process

    def unwrap(self, error: Exception) -> BaseException:
        return error

    def leaving(self) -> dict[str, str]:
        return {}

    def revive(self, roles: frozenset[str] | None, say: Callable[[str], None]) -> list[str]:
        return []

    def close(self) -> None:
        for handle in self._handles.values():
            handle.endpoint.close()
        torch.set_num_threads(self._threads)
