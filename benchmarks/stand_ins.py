"""Agents that wait instead of computing: their verbs take so long on the clock, without a core, and say what a true step said. So the cost of exchange, calls and waiting shows on any machine as it would beside a GPU's step."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import random_images

from sparring.agents import checkpoint, networks
from sparring.agents.lanes import Lanes
from sparring.agents.spec import AgentSpec
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.runs import images
from sparring.trainers.types import Metrics

TRUE = 1  # steps that are computed


@dataclass(frozen=True, kw_only=True)
class StandInSpec(AgentSpec):
    """A specification whose agent waits."""

    waits: tuple[float, ...] = ()  # seconds of each verb of a step

    def build(self, lanes: Lanes = Lanes()) -> Any:
        return StandIn(AgentSpec.build(self, lanes), self.waits)


class StandIn:
    """An agent's verbs, played."""

    def __init__(self, agent: Any, waits: tuple[float, ...]) -> None:
        self._agent, self._waits = agent, waits
        self._said: list[Any] = []  # what each verb gave in the true step
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
            self._said.append(getattr(self._agent, verb)(t, **seen))
            return self._said[-1]
        with self._agent.meter.timed(verb):
            time.sleep(self._waits[self._next])
        self._next += 1
        return self._said[self._next - 1]


def configured(point: str, args: argparse.Namespace, folder: Path) -> RunConfig:
    """METHOD[:PEERS][xLANES] on random images, teachers like the student with random weights."""
    parts = re.fullmatch(r"(.+?)(?::(\d+))?(?:x(\d+))?", point)
    assert parts is not None
    method, peers, lanes = parts.groups()
    data, cache = random_images([int(n) for n in args.shape.split("x")]), args.cache or str(folder / "cache")
    config = recipe(method).replace({"data.name": data, "data.cache": cache, "network": args.network})
    config = config.replace({"lanes": int(lanes or 1), "address": args.address, "placement.strategy": "SPREAD"})
    if args.address is not None:
        config = config.replace({"placement.wait": 120.0, "placement.gpus_per_agent": 0.0})
    config = config.replace({"batch_size": args.batch_size, "attack.steps": 10, "max_steps": 10**6, "seed": args.seed})
    config = config.replace({"placement.cpus_per_agent": 0.125, **({"peers": int(peers)} if peers else {})})
    dataset = images.prepare(config.data, quiet=True).load()
    for index, (role, kind) in enumerate(config.method.roles().items()):
        if not kind.learns:
            checkpoint.save_model(networks.build(networks.configure(args.network, dataset), index), folder / role)
            config = config.replace({f"agents.{role}.init": str(folder / role)})
    return config
