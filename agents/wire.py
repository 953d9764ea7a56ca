"""Messages from process to process, without a store between them.

    on one host       a slot of memory that both see, a word through a pipe that it is there (``shared``)
    between hosts     torch.distributed's gloo, rank to rank: each array as it is, into buffers that were posted before the step

The shape of a message is told once per value and number of images, ahead of the first such message; afterwards bytes only.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sparring.agents.exchange import unpack
from sparring.agents.frames import Layout, put_together, taken_apart
from sparring.agents.meeting import PeerLost
from sparring.agents.program import Call, Value
from sparring.agents.shared import LAYOUT, READY, SLOTS, TAKEN, Inbox, Link, Outbox

Key: TypeAlias = tuple[Value, Call, int]  # whose message has one shape: the value, what makes it, for how many images
LEAVES = 1000  # arrays in a message, at most
STEPS = 4  # after so many steps tags come again; no agent is two steps ahead of one that it sends to


@dataclass(slots=True)
class _Said:
    """A value that this agent publishes."""

    layout: Layout
    outbox: Outbox | None = None
    slots: deque[int] = field(default_factory=deque)  # steps whose message may still be read
    count: int = 0


@dataclass(slots=True)
class _Heard:
    """A value that another publishes."""

    layout: Layout
    inbox: Inbox | None = None
    buffers: list[Tensor] = field(default_factory=list)
    works: list[Any] = field(default_factory=list)  # of the message under way
    count: int = 0


class Wire:
    """One agent's end of the exchange.

    Args:
        links: to the agents of this host.
        group: all agents', when some are on other hosts.
        ranks: everybody's place in it.
        device: where this agent's messages are to be.
        timeout: seconds after which a silent agent counts as lost.
    """

    def __init__(
        self, links: Mapping[str, Link], group: Any, ranks: Mapping[str, int], *, device: torch.device, timeout: float
    ) -> None:
        self._links, self._group, self._ranks = links, group, ranks
        self._device, self._timeout = device, timeout
        self._said, self._heard = dict[Key, _Said](), dict[Key, _Heard]()
        self._going: list[tuple[int, Any, Tensor]] = []  # step, work, and what must live until then

    def expect(self, t: int, key: Key) -> None:
        """Be ready for a value of step ``t``: it arrives while this agent computes."""
        if key[0].of not in self._links and key in self._heard:
            self._listen(t, key)

    def send(self, t: int, key: Key, message: Any, to: Sequence[str]) -> None:
        """Begin to send a packed message; it must not change until the next step.

        Raises:
            ValueError: its shapes are others than those of the same value before.
            PeerLost: somebody is gone.
        """
        layout, arrays = taken_apart(message)
        first = key not in self._said
        said = self._said.setdefault(key, _Said(layout))
        if said.layout != layout:
            raise ValueError(
                f"{key[0].of}: what {key[1].verb} publishes in step {t} has other shapes or types than before for {key[2]} images; "
                "messages that change need --exchange store"
            )
        near = [agent for agent in to if agent in self._links]
        if near:
            self._share(t, key[0].index, said, arrays, near)
        for agent in to:
            if agent not in self._links:
                self._dispatch(t, key[0], layout if first else None, arrays, agent)

    def receive(self, t: int, key: Key) -> Any:
        """The value's message, in memory of the receiver's own.

        Raises:
            PeerLost: its sender is gone or silent.
        """
        value = key[0]
        if value.of in self._links:
            return self._copied(t, key, self._links[value.of])
        if key not in self._heard:
            self._heard[key] = _Heard(self._told_by(t, value))
        heard = self._heard[key]
        if not heard.works:
            self._listen(t, key)
        for work in heard.works:
            self._wait(work, value.of)
        heard.works.clear()
        return self._made(heard.layout, [buffer.numpy() for buffer in heard.buffers])

    def end(self, t: int) -> None:
        """Step ``t`` is over: what was sent in the one before has arrived, or its receiver is lost."""
        for step, work, _ in self._going:
            if step < t:
                self._wait(work, "another agent")
        self._going = [going for going in self._going if going[0] == t]

    def close(self) -> None:
        """Leave, so that whoever waits for this agent knows."""
        for said in self._said.values():
            if said.outbox is not None:
                said.outbox.close()
        for link in self._links.values():
            link.close()
        self._said.clear()
        self._heard.clear()
        self._going.clear()
        self._links, self._group = {}, None

    def _share(self, t: int, index: int, said: _Said, arrays: Sequence[Any], near: Sequence[str]) -> None:
        if said.outbox is None:
            said.outbox = Outbox(said.layout.nbytes)
            for agent in near:
                self._links[agent].say(LAYOUT, t, index, pickle.dumps((said.layout, said.outbox.place)))
        if len(said.slots) == SLOTS:
            before = said.slots.popleft()
            for agent in near:
                self._links[agent].hear(TAKEN, before, index)
        said.outbox.write(said.count, arrays)
        said.slots.append(t)
        said.count += 1
        for agent in near:
            self._links[agent].say(READY, t, index)

    def _copied(self, t: int, key: Key, link: Link) -> Any:
        index = key[0].index
        if key not in self._heard:
            layout, place = pickle.loads(link.hear(LAYOUT, t, index))
            self._heard[key] = _Heard(layout, Inbox(place, layout.nbytes))
        heard = self._heard[key]
        assert heard.inbox is not None
        link.hear(READY, t, index)
        ends = np.cumsum([leaf.nbytes for leaf in heard.layout.leaves])[:-1]
        message = self._made(heard.layout, np.split(heard.inbox.read(heard.count), ends))
        heard.count += 1
        link.say(TAKEN, t, index)
        return message

    def _made(self, layout: Layout, parts: Sequence[np.ndarray[Any, Any]]) -> Any:
        arrays = [part.view(leaf.dtype).reshape(leaf.shape) for leaf, part in zip(layout.leaves, parts, strict=True)]
        return unpack(put_together(layout, arrays), device=self._device)

    def _dispatch(self, t: int, value: Value, layout: Layout | None, arrays: Sequence[Any], agent: str) -> None:
        """To another host, with the layout ahead of the first."""
        if layout is not None:
            text = torch.frombuffer(bytearray(pickle.dumps(layout)), dtype=torch.uint8)
            for part in (torch.tensor([len(text)]), text):
                self._post(t, part, agent, _tag(t, value, 0))
        for i, array in enumerate(arrays):
            self._post(t, torch.from_numpy(array.reshape(-1).view(np.uint8)), agent, _tag(t, value, 1 + i))

    def _told_by(self, t: int, value: Value) -> Layout:
        """What :meth:`_dispatch` says first."""
        size, rank, tag = torch.empty(1, dtype=torch.int64), self._ranks[value.of], _tag(t, value, 0)
        self._wait(self._group.recv([size], rank, tag), value.of)
        text = torch.empty(int(size), dtype=torch.uint8)
        self._wait(self._group.recv([text], rank, tag), value.of)
        layout: Layout = pickle.loads(text.numpy().tobytes())
        return layout

    def _listen(self, t: int, key: Key) -> None:
        heard, rank = self._heard[key], self._ranks[key[0].of]
        if not heard.buffers:
            heard.buffers = [torch.empty(leaf.nbytes, dtype=torch.uint8) for leaf in heard.layout.leaves]
        heard.works = [
            self._group.recv([buffer], rank, _tag(t, key[0], 1 + i))
            for i, buffer in enumerate(heard.buffers)
            if buffer.numel()
        ]

    def _post(self, t: int, part: Tensor, agent: str, tag: int) -> None:
        if part.numel():
            self._going.append((t, self._group.send([part], self._ranks[agent], tag), part))

    def _wait(self, work: Any, whom: str) -> None:
        try:
            work.wait(timedelta(seconds=self._timeout))
        except RuntimeError as error:
            raise PeerLost(f"{whom} is gone or silent: {str(error).splitlines()[0]}") from error


def _tag(t: int, value: Value, part: int) -> int:
    """A number per value and array, the same at both ends; the sender's rank tells agents apart."""
    return t % STEPS << 24 | value.index * (LEAVES + 1) + part
