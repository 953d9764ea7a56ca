"""Between GPUs of two hosts: NCCL, whose messages have no tags, so that both ends take them in the order of publishing.

Every ordered pair of agents has a group of its own: what one receives never waits behind what it sends. Untried on GPUs; tests run it over gloo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.agents.frames import Layout, views
from sparring.agents.meeting import PeerLost
from sparring.agents.sockets import Sockets
from sparring.agents.ways import Key

SENDER, RECEIVER = 0, 1  # ranks in a pair's group


class Ordered:
    """The way from GPU to GPU.

    Args:
        me: this agent.
        pair: makes the group of a sender and a receiver, one of which is this agent.
        sockets: through which layouts are told.
        device: of this agent.
    """

    def __init__(self, me: str, pair: Callable[[str, str], Any], sockets: Sockets, device: torch.device) -> None:
        self._me, self._pair, self._sockets, self._device = me, pair, sockets, device
        self._groups: dict[tuple[str, str], Any] = {}
        self._said, self._layouts = set[Key](), dict[Key, Layout]()
        self._due: dict[str, list[Key]] = {}  # per sender, what is to come and was not posted
        self._coming: dict[Key, tuple[Any, Tensor]] = {}
        self._going: list[tuple[int, Any, Tensor]] = []  # step, work, and what must live until then

    def expect(self, t: int, key: Key) -> None:
        due = self._due.setdefault(key[0].of, [])
        due.append(key)
        due.sort(key=lambda each: each[0].index)

    def send(self, t: int, key: Key, layout: Layout, tensors: Sequence[Tensor], to: Sequence[str]) -> None:
        if key not in self._said:
            self._said.add(key)
            self._sockets.tell(t, key, layout, to)
        whole = torch.empty(layout.nbytes, dtype=torch.uint8, device=self._device)
        for there, tensor in zip(views(layout, whole), tensors, strict=True):
            there.copy_(tensor)
        for agent in to:
            self._going.append((t, self._group(self._me, agent).send([whole], RECEIVER, 0), whole))

    def receive(self, t: int, key: Key) -> tuple[Layout, list[Tensor]]:
        sender = key[0].of
        while key not in self._coming:  # what was published before it comes before it
            each = self._due[sender].pop(0)
            if each not in self._layouts:
                self._layouts[each] = self._sockets.told(t, each)
            buffer = torch.empty(self._layouts[each].nbytes, dtype=torch.uint8, device=self._device)
            self._coming[each] = (self._group(sender, self._me).recv([buffer], SENDER, 0), buffer)
        work, buffer = self._coming.pop(key)
        self._wait(work, sender)
        layout = self._layouts[key]
        return layout, views(layout, buffer)

    def end(self, t: int) -> None:
        for step, work, _ in self._going:
            if step < t:
                self._wait(work, "another agent")
        self._going = [going for going in self._going if going[0] == t]

    def close(self) -> None:
        self._groups.clear()
        self._coming.clear()
        self._going.clear()

    def _group(self, sender: str, receiver: str) -> Any:
        if (sender, receiver) not in self._groups:
            self._groups[sender, receiver] = self._pair(sender, receiver)
        return self._groups[sender, receiver]

    def _wait(self, work: Any, whom: str) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            raise PeerLost(f"{whom} is gone or silent: {str(error).splitlines()[0]}") from error
