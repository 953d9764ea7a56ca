"""The Ray actors: an agent's, and the one that speaks for all agents of a host.

An agent's is synchronous, without restarts or retries: its calls run in the order in which they were submitted, and a dead one stays
dead until the controller rolls everybody back, since a restarted one would have lost its state silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from sparring.agents.direct import Direct
from sparring.agents.spec import AgentSpec, Facts
from sparring.trainers import user


class _Actor(Direct):
    @user.telling
    def __init__(self, spec: AgentSpec, lanes: int) -> None:
        torch.set_num_threads(spec.threads)
        super().__init__(spec)
        self.agent.warm_up(lanes)

    def describe(self) -> Facts:
        return replace(super().describe(), node=ray.util.get_node_ip_address())


# task events: the head would keep an entry of every call, 20 MiB in 1,000 steps of two peers (Ray 2.60)
AgentActor = ray.remote(max_restarts=0, max_task_retries=0, enable_task_events=False)(_Actor)


@dataclass(frozen=True, slots=True)
class Failed:
    """Calls of which one at least ended in an error: whoever reads its reference gets it as it was raised."""

    refs: list[Any]


class _Coordinator:
    """Asks many actors for one caller.

    Args:
        actors: those of one host, which nobody else asks meanwhile.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._next, self._turn = 0, asyncio.Condition()

    async def ask(
        self, turn: int, verb: str, calls: Sequence[tuple[int, tuple[Any, ...]]], same: Mapping[str, Any]
    ) -> list[Any] | Failed:
        """The results of a verb, from the actors at these places with these arguments.

        Args:
            turn: how many calls of the same caller came before: Ray starts an asynchronous actor's in any order.
            same: keywords for all of them.
        """
        async with self._turn:
            await self._turn.wait_for(lambda: self._next == turn)
            refs = [getattr(self._actors[i], verb).remote(*args, **same) for i, args in calls]
            self._next += 1
            self._turn.notify_all()
        try:
            return list(await asyncio.gather(*refs))
        except Exception:  # whichever kind it is, the caller reads it from the reference
            return Failed(refs)


Coordinator = ray.remote(max_restarts=0, max_task_retries=0, enable_task_events=False, num_cpus=0)(_Coordinator)
