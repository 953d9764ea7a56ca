"""A step as one call: an agent that carries out its part of the program and exchanges with the others directly.

    run(t) ---> expect what is to come ---> its verbs, one after the other: take, compute, send ---> metrics

What is packed and computed is what the object store would have carried, to the byte; it is copied once a step, where that copies for
every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sparring.agents.endpoint import Endpoint
from sparring.agents.exchange import nest, private
from sparring.agents.lanes import Lanes
from sparring.agents.meeting import Meeting, PeerLost, common_store, over_nccl
from sparring.agents.near import Near
from sparring.agents.ordered import RECEIVER, SENDER, Ordered
from sparring.agents.program import Call, Program, Value, recorded
from sparring.agents.shared import Link, Pipe, Place, linked, place_of
from sparring.agents.slots import at_handle, handle
from sparring.agents.sockets import Sockets
from sparring.agents.spec import AgentSpec
from sparring.agents.ways import Key, Way, chosen
from sparring.agents.wire import Wire
from sparring.trainers import user
from sparring.trainers.types import Metrics


@dataclass(frozen=True, slots=True)
class Offer:
    """How others find an agent."""

    pipes: dict[str, Place]  # to it, by the agent that may take one
    addresses: dict[str, bytes]  # of its socket
    device: str  # type of the device on which it computes
    handle: bytes | None  # with which others may open memory of its GPU


@dataclass(frozen=True, slots=True)
class Sight:
    """What an agent found."""

    near: bool  # all others of this host were in sight
    opened: tuple[str, ...]  # those of whose GPU it could open memory


class Direct(Endpoint):
    """An endpoint that also runs whole steps."""

    def __init__(self, spec: AgentSpec, lanes: Lanes = Lanes()) -> None:
        super().__init__(spec, lanes)
        self._wire: Wire | None = None
        self._meeting: Meeting | None = None
        self._group: Any = None
        self._pipes: dict[str, Pipe] = {}
        self._links: dict[str, Link] = {}
        self._probe: torch.Tensor | None = None
        self._program = Program()  # of the last step
        self._readers: dict[Value, tuple[str, ...]] = {}
        self._keys: dict[int, dict[Value, Key]] = {}  # by number of images

    def offer(self, near: Sequence[str], far: tuple[int, int, str] | None, timeout: float) -> Offer:
        """Lay pipes from the agents of this host, and open a socket when there are others.

        Args:
            far: rank, number of agents and this host's address.
            timeout: seconds in which all must have come.
        """
        self._leave()
        self._pipes = {agent: Pipe.laid() for agent in near}
        pipes = {agent: place_of(pipe.theirs) for agent, pipe in self._pipes.items()}
        device, told = self.agent.batches.device, None
        if device.type == "cuda" and near:
            self._probe = torch.zeros(1, dtype=torch.uint8, device=device)
            told = handle(self._probe)
        if far is None:
            return Offer(pipes, {}, device.type, told)
        rank, size, host = far
        self._meeting = Meeting(rank, size, host, timeout=timeout)
        return Offer(pipes, self._meeting.address(), device.type, told)

    def meet(self, offers: Mapping[str, Offer], timeout: float) -> Sight:
        """Find the others: one on this host can be out of sight, as in another container.

        Args:
            offers: everybody's.
            timeout: seconds after which a silent agent counts as lost.
        """
        places = {agent: offers[agent].pipes[self.agent.me] for agent in self._pipes}
        links = linked(self._pipes, places, timeout=timeout)
        self._links = links or {}
        if self._meeting is not None:
            addresses = {k: v for offer in offers.values() for k, v in offer.addresses.items()}
            self._group = self._meeting.join(addresses, timeout=timeout)
        return Sight(links is not None, tuple(agent for agent in self._links if _opens(offers[agent].handle)))

    def settle(self, devices: Mapping[str, str], openers: Sequence[str], timeout: float) -> None:
        """All have met: choose the way to each.

        Args:
            devices: type of everybody's, in the order of ranks.
            openers: those who could open memory of this agent's GPU.
            timeout: seconds after which a silent agent counts as lost.
        """
        for link in self._links.values():
            link.settle()
        me, device = self.agent.me, self.agent.batches.device
        kinds = {
            agent: chosen(near=agent in self._links, mine=device.type, theirs=kind, opened=agent in openers)
            for agent, kind in devices.items()
            if agent != me
        }
        ranks = {agent: rank for rank, agent in enumerate(devices)}
        near, sockets = Near(self._links, device, frozenset(openers)), Sockets(self._group, ranks, timeout=timeout)
        ways: dict[str, Way] = {"memory": near, "ipc": near, "gloo": sockets}
        on_gpus = list(devices.values()).count("cuda")
        if self._meeting is not None and on_gpus > 1:  # all take part, whom it concerns or not
            store = common_store(self._group, self._meeting.host, ranks[me], timeout=timeout)
            ways["nccl"] = Ordered(me, partial(self._pair, store, timeout), sockets, device)
        self._wire, self._meeting = Wire({agent: ways[kind] for agent, kind in kinds.items()}, device), None

    def _pair(self, store: Any, timeout: float, sender: str, receiver: str) -> Any:
        """The group of two over NCCL."""
        rank = SENDER if self.agent.me == sender else RECEIVER
        return over_nccl(store, f"{sender}>{receiver}", rank, 2, timeout=timeout)

    @user.telling
    def run(self, t: int, steps: int) -> list[Metrics]:
        """This agent's part of ``steps`` steps from ``t`` on.

        Raises:
            PeerLost: another agent is gone or silent.
        """
        try:
            program = recorded(self.agent.method, t)  # the same for every step
            return [self._step(s, program) for s in range(t, t + steps)]
        except BaseException:
            self._leave()  # whoever waits for this agent is told so
            raise

    def _step(self, t: int, program: Program) -> Metrics:
        me, keys, readers, metrics = self.agent.me, self._keyed(t, program), self._readers, None
        held: dict[Value, Any] = {}  # what this agent has published or taken, as its verbs see it
        for value, takers in readers.items():
            if me in takers:
                self._line.expect(t, keys[value])
        for call in program.calls[me]:
            for _, value in call.takes:
                if isinstance(value, Value) and value not in held:
                    held[value] = self._line.receive(t, keys[value])
            said = self._carried_out(t, call, held)
            if call.gives is None:
                metrics = said
                continue
            with self.agent.meter.timed("exchange"):
                to = readers.get(call.gives)
                kept = private(said) if to is None else self._line.publish(t, keys[call.gives], said, to)
                held[call.gives] = kept
        if readers:
            self._line.end(t)
        return metrics or self.report(t)

    def _carried_out(self, t: int, call: Call, held: Mapping[Value, Any]) -> Any:
        seen = nest({name: held[v] if isinstance(v, Value) else v for name, v in call.takes})
        if call.verb == "craft":
            return self.agent.craft(t, attack=call.attack or "train", **seen)
        verbs: dict[str, Any] = {"answer": self.agent.answer, "predict": self.agent.predict, "learn": self.agent.learn}
        return verbs[call.verb](t, **seen)

    def _keyed(self, t: int, program: Program) -> dict[Value, Key]:
        """What tells messages of one shape from others, by value."""
        n = self.agent.images_of(t)
        if program != self._program:
            self._program, self._readers, self._keys = program, program.readers(), {}
        if n not in self._keys:
            self._keys[n] = {value: (value, call, n) for value, call in program.makers().items()}
        return self._keys[n]

    @property
    def _line(self) -> Wire:
        if self._wire is None:
            raise PeerLost(f"{self.agent.me} has left the others")
        return self._wire

    def _leave(self) -> None:
        if self._wire is not None:
            self._wire.close()
        else:
            for link in self._links.values():
                link.settle()
                link.close()
        self._wire = self._meeting = self._group = self._probe = None
        self._links, self._pipes = {}, {}


def _opens(told: bytes | None) -> bool:
    """Whether this process can open memory of another one's GPU."""
    if told is None:
        return False
    try:
        at_handle(told)
    except RuntimeError:  # CUDA's: another GPU than this process may see
        return False
    return True
