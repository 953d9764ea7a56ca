"""The team on Ray: one actor per agent, one bundle per actor; only references pass through the driver.

    driver                     agent 0 (actor)               agent 1 (actor)
    craft.remote(t)   ------>  attack, publish x_0
    craft.remote(t)   ------------------------------------>  attack, publish x_1
    answer.remote(t, ref x_1)  waits for x_1 itself          answer.remote(t, ref x_0)
    learn.remote(t, refs)      waits for its arguments       learn.remote(t, refs)

A synchronous actor runs its calls in the order of submission, and the order in which a method makes its calls never
lets a call wait for a later one; so nothing can deadlock, however many steps are in flight.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from agents.actors import AgentActor
from agents.exchange import flatten
from agents.spec import AgentSpec, Facts
from cluster import failures, images
from cluster.errors import Infrastructure
from cluster.placement import Resources
from cluster.team import Failure, Pending, asked
from trainers.config import Attack
from trainers.datasets import cache
from trainers.methods.base import Method

_missing, _receive = ray.remote(images.missing), ray.remote(images.receive)

START_TIMEOUT = 180.0  # seconds; an actor imports torch and loads data: 2 s alone, 15 s on a loaded machine


class RayHandle:
    """An actor as a method's ``step`` sees it. Every reference is also noted for the team's failure analysis."""

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


class RayTeam:
    """Actors in the bundles of one placement group, the agent of index i in bundle i."""

    def __init__(
        self,
        specs: Sequence[AgentSpec],
        group: PlacementGroup,
        bundles: Sequence[Resources],
        *,
        runtime_env: dict[str, Any],
    ) -> None:
        # an agent without a GPU of its own computes on the CPU, although Ray lets it see the node's GPUs
        self._specs = {
            s.me: s if b.get("GPU") else replace(s, device="cpu") for s, b in zip(specs, bundles, strict=True)
        }
        self._group, self._bundles, self._runtime_env = group, bundles, runtime_env
        self._learners = {role for role, r in specs[0].make_method().roles().items() if r.learns}
        self._refs: list[Any] = []
        self._handles: dict[str, RayHandle] = {}
        self._facts: dict[str, Facts] = {}
        try:
            self._share_images()
            self._spawn(list(self._specs))
        except RayError as error:
            self.close()
            cause = failures.unwrap(error)
            if cause is error:
                raise Infrastructure(f"the agents could not be started: {error}") from error
            raise cause from error

    def __getitem__(self, role: str) -> RayHandle:
        return self._handles[role]

    def describe(self) -> dict[str, Facts]:
        return dict(self._facts)

    def submit(self, method: Method, t: int) -> Pending:
        self._refs = []
        for handle in self._handles.values():
            handle.metrics = None
        method.step(self, t)
        results = {role: h.metrics or self._note(h.actor.report.remote(t)) for role, h in self._handles.items()}
        return Pending("step", t, results, self._refs)

    def save(self, t: int, folder: Path) -> Pending:
        refs = {role: h.actor.save.remote(t, str(folder / role)) for role, h in self._handles.items()}
        return Pending("save", t, refs, list(refs.values()))

    def evaluate(self, t: int, by: Sequence[Attack]) -> Pending:
        refs = {role: h.actor.evaluate.remote(t, by) for role, h in self._handles.items() if role in self._learners}
        return Pending("evaluate", t, refs, list(refs.values()))

    def collect(self, pending: Pending, *, timeout: float) -> dict[str, Any]:
        values = ray.get(list(pending.results.values()), timeout=timeout)
        return dict(zip(pending.results, values, strict=True))

    def restore(self, folder: Path, *, timeout: float, lr_factor: float = 1.0) -> None:
        loads = [h.actor.load.remote(str(folder / role), lr_factor) for role, h in self._handles.items()]
        ray.get(loads, timeout=timeout)

    def diagnose(self, error: Exception, refs: Sequence[Any]) -> Failure | None:
        return failures.classify(error, refs, {h.actor._actor_id.hex(): role for role, h in self._handles.items()})

    def unwrap(self, error: Exception) -> BaseException:
        return failures.unwrap(error)

    def revive(self, roles: frozenset[str] | None) -> list[str]:
        """Replace the given agents, all when None, by fresh ones in the same bundles; their names."""
        chosen = [role for role in self._specs if roles is None or role in roles]
        for role in chosen:
            self._kill(role)
        self._spawn(chosen)
        return chosen

    def close(self) -> None:
        for role in self._handles:
            self._kill(role)
        self._handles.clear()
        ray.util.remove_placement_group(self._group)

    def _share_images(self) -> None:
        """Bring the decoded images once to every other node that lacks them; agents then read them from its cache."""
        shared = next(iter(self._specs.values())).images
        here = ray.get_runtime_context().get_node_id()
        placed = ray.util.placement_group_table(self._group)["bundles_to_node_id"].values()
        entries: dict[str, Any] = {}  # put into the object store once, however many nodes want them
        for node in sorted(set(placed) - {here}):
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            on_node = {"num_cpus": 0, "scheduling_strategy": there}
            lacking = ray.get(_missing.options(**on_node).remote(shared), timeout=START_TIMEOUT)
            for key in lacking:
                entries[key] = entries.get(key) or ray.put(cache.pack(Path(shared.cache) / key))
                ray.get(_receive.options(**on_node).remote(shared, key, entries[key]), timeout=START_TIMEOUT)

    def _spawn(self, roles: Sequence[str]) -> None:
        for role in roles:
            index = self._specs[role].index
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
            bundle = self._bundles[index]
            actor = AgentActor.options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=strategy,
                runtime_env=self._runtime_env,
            ).remote(self._specs[role])
            self._handles[role] = RayHandle(actor, self._note)
        self._handles = {role: self._handles[role] for role in self._specs if role in self._handles}
        facts = ray.get([self._handles[role].actor.describe.remote() for role in roles], timeout=START_TIMEOUT)
        self._facts |= dict(zip(roles, facts, strict=True))

    def _kill(self, role: str) -> None:
        ray.kill(self._handles[role].actor, no_restart=True)
        facts = self._facts.get(role)
        if facts is not None and facts.host == socket.gethostname() and _is_actor(facts.pid):
            with suppress(ProcessLookupError):  # it may have ended by itself meanwhile
                os.kill(facts.pid, signal.SIGKILL)  # a stopped process does not hear Ray's request

    def _note(self, ref: Any) -> Any:
        self._refs.append(ref)
        return ref


def _is_actor(pid: int) -> bool:
    """Whether ``pid`` still is a Ray worker, and not some other process that got its number."""
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
