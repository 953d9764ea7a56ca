"""A step as one call: an agent that carries out its part of the program and exchanges with the others directly.

    run(t) ---> expect what is to come ---> its verbs, one after the other: take, compute, send ---> metrics

What is packed and computed is what the object store would have carried, to the byte; it is copied once a step, where that copies for
every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.agents.endpoint import Endpoint
from sparring.agents.exchange import nest, pack, unpack
from sparring.agents.lanes import Lanes
from sparring.agents.meeting import Meeting, PeerLost
from sparring.agents.program import Call, Program, Value, recorded
from sparring.agents.shared import Link, Pipe, Place, linked, place_of
from sparring.agents.spec import AgentSpec
from sparring.agents.wire import Key, Wire
from sparring.trainers import user
from sparring.trainers.types import Metrics


@dataclass(frozen=True, slots=True)
class Offer:
    """How others find an agent."""

    pipes: dict[str, Place]  # to it, by the agent that may take one
    addresses: dict[str, bytes]  # of its socket


class Direct(Endpoint):
    """An endpoint that also runs whole steps."""

    def __init__(self, spec: AgentSpec, lanes: Lanes = Lanes()) -> None:
        super().__init__(spec, lanes)
        self._wire: Wire | None = None
        self._meeting: Meeting | None = None
        self._pipes: dict[str, Pipe] = {}
        self._links: dict[str, Link] = {}
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
        if far is None:
            return Offer(pipes, {})
        rank, size, host = far
        self._meeting = Meeting(rank, size, host, timeout=timeout)
        return Offer(pipes, self._meeting.address())

    def meet(self, offers: Mapping[str, Offer], ranks: Mapping[str, int], timeout: float) -> bool:
        """Join the others; False when one on this host is out of sight, as in another container.

        Args:
            offers: everybody's.
            ranks: everybody's place.
            timeout: seconds after which a silent agent counts as lost.
        """
        places = {agent: offers[agent].pipes[self.agent.me] for agent in self._pipes}
        links = linked(self._pipes, places, timeout=timeout)
        group = None
        if self._meeting is not None:
            addresses = {k: v for offer in offers.values() for k, v in offer.addresses.items()}
            group = self._meeting.join(addresses, timeout=timeout)
            self._meeting = None
        self._wire = Wire(links or {}, group, ranks, device=self.agent.batches.device, timeout=timeout)
        self._links = links or {}
        return links is not None

    def settle(self) -> None:
        """All have met."""
        for link in self._links.values():
            link.settle()

    @user.telling
    def run(self, t: int, steps: int) -> list[Metrics]:
        """This agent's part of ``steps`` steps from ``t`` on.

        Raises:
            PeerLost: another agent is gone or silent.
        """
        try:
            return [self._step(s) for s in range(t, t + steps)]
        except BaseException:
            self._leave()  # whoever waits for this agent is told so
            raise

    def _step(self, t: int) -> Metrics:
        me, program = self.agent.me, recorded(self.agent.method, t)
        keys, readers, metrics = self._keyed(t, program), self._readers, None
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
                packed = pack(said)
                held[call.gives] = unpack(packed, device=self.agent.batches.device, copy=False)
                if call.gives in readers:
                    self._line.send(t, keys[call.gives], packed, readers[call.gives])
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
        self._wire = self._meeting = None
        self._links, self._pipes = {}, {}
