"""The team on Ray: one actor per agent, one bundle per actor; only references pass through the driver.

    driver                     agent 0 (actor)               agent 1 (actor)
    craft.remote(t)   ------>  attack, publish x_0
    craft.remote(t)   ------------------------------------>  attack, publish x_1
    answer.remote(t, ref x_1)  waits for x_1 itself          answer.remote(t, ref x_0)
    learn.remote(t, refs)      waits for its arguments       learn.remote(t, refs)

With lanes there is one actor per agent and lane, and the same calls are submitted to every lane before any result is waited
for; lanes of one agent meet only inside ``learn``, in a group of their own.

A synchronous actor runs its calls in the order of submission, and the order in which a method makes its calls never
lets a call wait for a later one; so nothing can deadlock, however many steps are in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sparring.agents.actors import AgentActor
from sparring.agents.spec import AgentSpec, Facts
from sparring.cluster.machines import hosts, placement
from sparring.cluster.team import failures
from sparring.cluster.team.crew import MANY, Asked, Crew, Name
from sparring.cluster.team.introductions import averaging, introduce
from sparring.cluster.team.ray_handle import Lane, RayHandle, by_step, joined
from sparring.cluster.team.site import Site, on_bundle
from sparring.cluster.team.team import Failure, Kind, Pending
from sparring.trainers.config import Measure
from sparring.trainers.methods.base import Method

LANE_TIMEOUT = 60.0  # seconds, at most, that a lane waits for the others
SETTLING = (
    10.0  # seconds for an error to reach everybody who waits for the agent that has it, and for Ray to know who died
)
START_TIMEOUT = 180.0  # seconds; an actor imports torch and loads data: 2 s alone, 15 s on a loaded machine


class RayTeam:
    """Actors in the bundles of one placement group: lane r of the agent of index i, of R lanes, in bundle i * R + r.

    Args:
        specs: one per agent.
        site: where they run.
        lanes: replicas of each.
        call_timeout: seconds that agents wait for each other, at most.
        direct: a step is one call per agent, and messages go from process to process.

    Raises:
        Infrastructure: an agent could not be started.
    """

    def __init__(
        self,
        specs: Sequence[AgentSpec],
        site: Site,
        *,
        lanes: int = 1,
        call_timeout: float = 600.0,
        direct: bool = False,
    ) -> None:
        self._specs = {s.me: on_bundle(b, s) for s, b in zip(specs, site.bundles[::lanes], strict=True)}
        self._site, self._group = site, site.group
        self._timeout, self.spans = call_timeout, direct
        self._cause: BaseException | None = None  # of the failure that was diagnosed last
        self._learners = {role for role, r in specs[0].make_method().roles().items() if r.learns}
        self._refs: list[Any] = []
        self._crew = Crew()
        self._lanes = [Lane() for _ in range(lanes)]
        self._facts: dict[str, Facts] = {}
        try:
            self._prepare_nodes()
            self._spawn(list(self._specs))
        except RayError as error:
            self.close()
            raise failures.at_start(error) from error
        except BaseException:
            self.close()
            raise

    def __getitem__(self, role: str) -> RayHandle:
        return self._lanes[0][role]

    def describe(self) -> dict[str, Facts]:
        return dict(self._facts)

    def submit(self, method: Method, t: int) -> Pending:
        self._refs = []
        if self.spans:
            return self._asked("step", t, self._crew.ask("run", dict.fromkeys(self._names(), (t, 1))))
        results = []
        for i, lane in enumerate(self._lanes):
            for handle in lane.values():
                handle.metrics = None
            method.step(lane, t)
            results += [
                Asked(((role, i),), h.metrics or self._note(h.actor.report.remote(t))) for role, h in lane.items()
            ]
        return Pending("step", t, results, self._refs)

    def submit_span(self, t: int, steps: int) -> Pending:
        asked = self._crew.ask("run", dict.fromkeys(self._names(), (t, steps)))
        return replace(self._asked("steps", t, asked), steps=steps)

    def save(self, t: int, folder: Path) -> Pending:
        calls = {(role, i): (t, str(folder / role)) for role, i in self._names()}
        return self._asked("save", t, self._crew.ask("save", calls))

    def written(self, t: int, *, wait: bool) -> Pending:
        return self._asked("written", t, self._crew.ask("written", dict.fromkeys(self._names(), (t,)), wait=wait))

    def evaluate(self, t: int, by: Measure) -> Pending:
        learners = [(role, i) for role, i in self._names() if i == 0 and role in self._learners]
        return self._asked("evaluate", t, self._crew.ask("evaluate", dict.fromkeys(learners, (t, by))))

    def _names(self) -> list[Name]:
        return [(role, i) for i, lane in enumerate(self._lanes) for role in lane]

    def _asked(self, kind: Kind, t: int, asked: list[Asked]) -> Pending:
        return Pending(kind, t, asked, [one.ref for one in asked])

    def collect(self, pending: Pending, *, timeout: float) -> Any:
        values = self._crew.gather(pending.results, timeout=timeout)
        found: dict[str, list[Any]] = {}
        for role, i in sorted(values, key=self._names().index):
            found.setdefault(role, []).append(values[role, i])
        if pending.kind == "steps" or (pending.kind == "step" and self.spans):
            steps = by_step(found)
            return steps if pending.kind == "steps" else steps[0]
        return {role: joined(pending.kind, lanes) for role, lanes in found.items()}

    def change(self, t: int, specs: Sequence[AgentSpec], *, timeout: float) -> None:
        made = {s.me: replace(s, device=self._specs[s.me].device) for s in specs}
        self._crew.gather(self._crew.ask("change", {n: (t, made[n[0]]) for n in self._names()}), timeout=timeout)

    def restore(self, folder: Path, *, timeout: float, lr_factor: float = 1.0) -> None:
        calls = {(role, i): (str(folder / role), lr_factor) for role, i in self._names()}
        self._crew.gather(self._crew.ask("load", calls), timeout=timeout)

    def diagnose(self, error: Exception, refs: Sequence[Any]) -> Failure | None:
        refs = self._crew.behind(refs)
        if self.spans:
            ray.wait(refs, num_returns=len(refs), timeout=SETTLING, fetch_local=False)
            refs = self._crew.behind(refs)  # of coordinators that answered meanwhile
            self._cause = failures.own(error, refs)
            if self._cause is not None:
                return None
        roles = {self._lanes[i][role].actor._actor_id.hex(): role for role, i in self._names()}
        failure = failures.classify(error, refs, roles)
        # lanes that survive wait for one that is gone: all are made anew
        return failure if failure is None or len(self._lanes) == 1 else replace(failure, dead=None)

    def unwrap(self, error: Exception) -> BaseException:
        return self._cause or failures.unwrap(error)

    def leaving(self) -> dict[str, str]:
        return hosts.leaving(self._group)

    def revive(self, roles: frozenset[str] | None, say: Callable[[str], None]) -> list[str]:
        """Replace the given agents, all when None, by fresh ones in the same bundles; their names.

        Args:
            say: told when bundles of a lost node have to wait for another one.

        Raises:
            Infrastructure: none came in time.
        """
        chosen = [role for role in self._specs if roles is None or role in roles]
        self._crew.dismiss()
        self._kill(chosen, range(len(self._lanes)))
        deadline = time.monotonic() + self._site.replacement
        while True:
            hosts.await_bundles(self._group, deadline, say)
            try:
                self._prepare_nodes()
                self._spawn(chosen)
                return chosen
            except RayError:
                if not hosts.soon_lacking(self._group):
                    raise  # else a node is gone of which Ray did not know yet

    def close(self) -> None:
        self._crew.dismiss()
        for i, lane in enumerate(self._lanes):
            self._kill(list(lane), [i])
            lane.clear()
        if not self._site.borrowed:
            placement.release(self._group)

    def _prepare_nodes(self) -> None:
        shared = next(iter(self._specs.values())).images
        used = [pair for s in self._specs.values() for pair in [(s.network, s.init), *s.others.values()]]
        files = {init for _, init in used if init is not None}
        hosts.prepare(
            hosts.placed(self._group), shared, folder=self._site.folder, files=files, runtime_env=self._site.runtime_env
        )

    def _spawn(self, roles: Sequence[str]) -> None:
        count = len(self._lanes)
        for role in roles:
            for i, lane in enumerate(self._lanes):
                bundle = self._site.bundles[self._specs[role].index * count + i]
                options = self._beside((role, i)) | {"num_cpus": bundle.cpus, "num_gpus": bundle.gpus}
                lane[role] = RayHandle(AgentActor.options(**options).remote(self._specs[role], count), self._note)
        for i, lane in enumerate(self._lanes):
            self._lanes[i] = Lane((role, lane[role]) for role in self._specs if role in lane)
        chosen = [(f"{role}/{i}" if i else role, lane[role]) for i, lane in enumerate(self._lanes) for role in roles]
        facts = ray.get([handle.actor.describe.remote() for _, handle in chosen], timeout=START_TIMEOUT)
        self._facts |= dict(zip((name for name, _ in chosen), facts, strict=True))
        self._introduce()

    def _introduce(self) -> None:
        """Let lanes of one agent, and agents that exchange directly, find each other; choose who speaks for those of one host."""
        nodes = {(role, i): self._facts[f"{role}/{i}" if i else role].node for role, i in self._names()}
        if len(self._lanes) > 1:
            patience = min(LANE_TIMEOUT, self._timeout)
            averaging(self._lanes, nodes, start=START_TIMEOUT, timeout=patience)
        if self.spans and len(self._specs) > 1:
            for i, lane in enumerate(self._lanes):
                introduce(lane, {role: nodes[role, i] for role in lane}, start=START_TIMEOUT, timeout=self._timeout)
        actors = {(role, i): self._lanes[i][role].actor for role, i in self._names()}
        self._crew.muster(
            actors, nodes, {name: self._beside(name) for name in actors}, many=MANY if self.spans else None
        )

    def _beside(self, name: Name) -> dict[str, Any]:
        """Options of an actor in the bundle of an agent's lane."""
        at = self._specs[name[0]].index * len(self._lanes) + name[1]
        at += self._site.borrowed  # its owner has the first bundle of a borrowed group
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=at)
        return {"scheduling_strategy": strategy, "runtime_env": self._site.runtime_env}

    def _kill(self, roles: Sequence[str], lanes: Sequence[int]) -> None:
        for role in roles:
            for i in lanes:
                ray.kill(self._lanes[i][role].actor, no_restart=True)
        names = [f"{role}/{i}" if i else role for role in roles for i in lanes]
        hosts.end([self._facts[n] for n in names if n in self._facts])

    def _note(self, ref: Any) -> Any:
        self._refs.append(ref)
        return ref
