"""Between hosts: torch.distributed's gloo, rank to rank, each tensor as it is, into buffers that were posted before the step."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from sparring.agents.frames import Doubled, Layout
from sparring.agents.meeting import PeerLost
from sparring.agents.program import Value
from sparring.agents.ways import Key

LEAVES = 1000  # tensors in a message, at most
STEPS = 4  # after so many steps tags come again; no agent is two steps ahead of one that it sends to


@dataclass(slots=True)
class _Heard:
    """A value that another publishes."""

    layout: Layout
    places: Doubled
    coming: list[Tensor] = field(default_factory=list)  # the message under way
    works: list[Any] = field(default_factory=list)


class Sockets:
    """The way through sockets. The layout of a message is told ahead of the first one.

    Args:
        group: all agents'.
        ranks: everybody's place in it.
        timeout: seconds after which a silent agent counts as lost.
    """

    def __init__(self, group: Any, ranks: Mapping[str, int], *, timeout: float) -> None:
        self._group, self._ranks, self._timeout = group, ranks, timeout
        self._said, self._heard = dict[Key, Doubled](), dict[Key, _Heard]()
        self._going: list[tuple[int, Any, Tensor]] = []  # step, work, and what must live until then

    def expect(self, t: int, key: Key) -> None:
        if key in self._heard:
            self._listen(t, key)

    def send(self, t: int, key: Key, layout: Layout, tensors: Sequence[Tensor], to: Sequence[str]) -> None:
        if key not in self._said:
            self._said[key] = Doubled(layout)
            self.tell(t, key, layout, to)
        for i, tensor in enumerate(self._said[key].take(tensors)):
            for agent in to:
                self._post(t, bytes_of(tensor), agent, _tag(t, key[0], 1 + i))

    def receive(self, t: int, key: Key) -> tuple[Layout, list[Tensor]]:
        if key not in self._heard:
            layout = self.told(t, key)
            self._heard[key] = _Heard(layout, Doubled(layout))
        heard = self._heard[key]
        if not heard.works:
            self._listen(t, key)
        for work in heard.works:
            self._wait(work, key[0].of)
        heard.works.clear()
        return heard.layout, heard.coming

    def tell(self, t: int, key: Key, layout: Layout, to: Sequence[str]) -> None:
        """Say what messages of a value look like."""
        text = torch.frombuffer(bytearray(pickle.dumps(layout)), dtype=torch.uint8)
        for agent in to:
            for part in (torch.tensor([len(text)]), text):
                self._post(t, part, agent, _tag(t, key[0], 0))

    def told(self, t: int, key: Key) -> Layout:
        """What :meth:`tell` says."""
        size, rank, tag = torch.empty(1, dtype=torch.int64), self._ranks[key[0].of], _tag(t, key[0], 0)
        self._wait(self._group.recv([size], rank, tag), key[0].of)
        text = torch.empty(int(size), dtype=torch.uint8)
        self._wait(self._group.recv([text], rank, tag), key[0].of)
        layout: Layout = pickle.loads(text.numpy().tobytes())
        return layout

    def end(self, t: int) -> None:
        """What was sent in the step before has arrived, or its receiver is lost."""
        for step, work, _ in self._going:
            if step < t:
                self._wait(work, "another agent")
        self._going = [going for going in self._going if going[0] == t]

    def close(self) -> None:
        self._heard.clear()
        self._going.clear()
        self._group = None

    def _listen(self, t: int, key: Key) -> None:
        heard, rank = self._heard[key], self._ranks[key[0].of]
        heard.coming = heard.places.next()
        heard.works = [
            self._group.recv([bytes_of(tensor)], rank, _tag(t, key[0], 1 + i))
            for i, tensor in enumerate(heard.coming)
            if tensor.numel()
        ]

    def _post(self, t: int, part: Tensor, agent: str, tag: int) -> None:
        if part.numel():
            self._going.append((t, self._group.send([part], self._ranks[agent], tag), part))

    def _wait(self, work: Any, whom: str) -> None:
        try:
            work.wait(timedelta(seconds=self._timeout))
        except RuntimeError as error:
            raise PeerLost(f"{whom} is gone or silent: {str(error).splitlines()[0]}") from error


def bytes_of(tensor: Tensor) -> Tensor:
    """A contiguous tensor as its bytes, in the same memory."""
    return tensor.view(-1).view(torch.uint8)


def _tag(t: int, value: Value, part: int) -> int:
    """A number per value and tensor, the same at both ends; the sender's rank tells agents apart."""
    return t % STEPS << 24 | value.index * (LEAVES + 1) + part
