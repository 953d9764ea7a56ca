"""Messages from process to process, without a store between them: torch.distributed's gloo, rank to rank.

    packed message ---> its arrays, each sent as it is ---> buffers of the receiver's, posted before the step ---> the same message
    large, on one host ---> a slot of memory that both see, and a word that it is there

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
from sparring.agents.shared import SLOTS, SMALLEST, Inbox, Outbox

Key: TypeAlias = tuple[Value, Call, int]  # whose message has one shape: the value, what makes it, for how many images
LEAVES = 1000  # arrays in a message, at most
STEPS = 4  # after so many steps tags come again; no agent is two steps ahead of one that it sends to


@dataclass(slots=True)
class _Line:
    """What one key needs at one end."""

    layout: Layout
    outbox: Outbox | None = None  # of the sender
    answers: dict[str, tuple[Any, Tensor]] = field(
        default_factory=dict
    )  # whether a reader sees it, while it is unknown
    seen_by: set[str] = field(default_factory=set)  # readers that do
    taken: dict[str, deque[tuple[Any, Tensor]]] = field(default_factory=dict)  # by reader, that it has copied a slot
    inbox: Inbox | None = None  # of a reader
    buffers: list[Tensor] = field(default_factory=list)  # of a reader without


@dataclass(slots=True)
class _Coming:
    """A message under way to this process."""

    line: _Line
    works: list[Any]
    buffers: list[Tensor]  # which must live until it is there
    shared: bool


class Wire:
    """One agent's end of the exchange.

    Args:
        group: all agents'.
        ranks: everybody's place in it.
        host: this host's address; memory is shared by those who have the same.
        device: where this agent's messages are to be.
        timeout: seconds after which a silent agent counts as lost.
    """

    def __init__(
        self, group: Any, ranks: Mapping[str, int], *, host: str, device: torch.device, timeout: float
    ) -> None:
        self._group, self._ranks, self._host, self._device, self._timeout = group, ranks, host, device, timeout
        self._told, self._heard = dict[Key, _Line](), dict[Key, _Line]()
        self._coming: dict[Value, _Coming] = {}
        self._going: list[tuple[int, Any, Tensor]] = []  # step, work, and what must live until then

    def expect(self, t: int, key: Key) -> None:
        """Be ready for a value of step ``t`` whose layout is known: it arrives while this agent computes."""
        if key in self._heard:
            self._listen(t, key, shared=self._heard[key].inbox is not None)

    def send(self, t: int, key: Key, message: Any, to: Sequence[str]) -> None:
        """Begin to send a packed message; it must not change until the next step.

        Raises:
            ValueError: its shapes are others than those of the same value before.
        """
        layout, arrays = taken_apart(message)
        first = key not in self._told
        line = self._tell(t, key, layout, to) if first else self._told[key]
        if line.layout != layout:
            raise ValueError(
                f"{key[0].of}: what {key[1].verb} publishes in step {t} has other shapes or types than before for {key[2]} images; "
                "messages that change need --exchange store"
            )
        for agent, (work, answer) in line.answers.items() if not first else ():
            self._wait(work, agent)
            line.seen_by |= {agent} if answer.item() else set()
        if not first:
            line.answers.clear()
        if line.outbox is not None and line.seen_by:
            for agent in line.seen_by:
                taken = line.taken.setdefault(agent, deque())
                if len(taken) == SLOTS:
                    self._wait(taken.popleft()[0], agent)
            line.outbox.write(t, arrays)
        for agent in to:
            if agent in line.seen_by:
                self._post(t, torch.ones(1, dtype=torch.uint8), agent, _tag(t, key[0], 1))
                line.taken[agent].append(self._answer(t, key, agent))
                continue
            for i, array in enumerate(arrays):
                self._post(t, torch.from_numpy(array.reshape(-1).view(np.uint8)), agent, _tag(t, key[0], 1 + i))

    def receive(self, t: int, key: Key) -> Any:
        """The value's message, in memory of the receiver's own."""
        value = key[0]
        if value not in self._coming:
            self._hear(t, key)
            self._listen(t, key, shared=False)
        coming = self._coming.pop(value)
        for work in coming.works:
            self._wait(work, value.of)
        layout = coming.line.layout
        if coming.shared:
            assert coming.line.inbox is not None
            parts: Sequence[Any] = np.split(
                coming.line.inbox.read(t), np.cumsum([leaf.nbytes for leaf in layout.leaves])[:-1]
            )
        else:
            parts = [buffer.numpy() for buffer in coming.line.buffers]
        arrays = [part.view(leaf.dtype).reshape(leaf.shape) for leaf, part in zip(layout.leaves, parts, strict=True)]
        message = unpack(put_together(layout, arrays), device=self._device)
        if coming.shared:
            self._post(t, torch.ones(1, dtype=torch.uint8), value.of, _tag(t, value, LEAVES))
        return message

    def end(self, t: int) -> None:
        """Step ``t`` is over: what was sent in the one before has arrived, or its receiver is lost."""
        for step, work, _ in self._going:
            if step < t:
                self._wait(work, "another agent")
        self._going = [going for going in self._going if going[0] == t]

    def close(self) -> None:
        """Leave the group, so that whoever waits for this agent knows."""
        for line in self._told.values():
            if line.outbox is not None:
                line.outbox.close()
        self._told.clear()
        self._coming.clear()
        self._going.clear()
        self._group = None

    def _listen(self, t: int, key: Key, *, shared: bool) -> None:
        line, rank = self._heard[key], self._ranks[key[0].of]
        if not shared and not line.buffers:
            line.buffers = [torch.empty(leaf.nbytes, dtype=torch.uint8) for leaf in line.layout.leaves]
        buffers = [torch.empty(1, dtype=torch.uint8)] if shared else line.buffers
        works = [
            self._group.recv([buffer], rank, _tag(t, key[0], 1 + i))
            for i, buffer in enumerate(buffers)
            if buffer.numel()
        ]
        self._coming[key[0]] = _Coming(line, works, buffers, shared)

    def _tell(self, t: int, key: Key, layout: Layout, to: Sequence[str]) -> _Line:
        """Announce a layout, and memory to share; this first message itself goes through the group."""
        line = self._told[key] = _Line(layout)
        size = sum(leaf.nbytes for leaf in layout.leaves)
        if size >= SMALLEST:
            line.outbox = Outbox(self._host, size)
        said = pickle.dumps((layout, line.outbox.where if line.outbox else None))
        text = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        for agent in to:
            for part in (torch.tensor([len(text)]), text):
                self._post(t, part, agent, _tag(t, key[0], 0))
            if line.outbox is not None:
                line.answers[agent] = self._answer(t, key, agent)
        return line

    def _answer(self, t: int, key: Key, agent: str) -> tuple[Any, Tensor]:
        """A word that a reader will say about a value."""
        answer = torch.zeros(1, dtype=torch.uint8)
        return self._group.recv([answer], self._ranks[agent], _tag(t, key[0], LEAVES)), answer

    def _hear(self, t: int, key: Key) -> None:
        """What :meth:`_tell` says."""
        size, rank, tag = torch.empty(1, dtype=torch.int64), self._ranks[key[0].of], _tag(t, key[0], 0)
        self._wait(self._group.recv([size], rank, tag), key[0].of)
        text = torch.empty(int(size), dtype=torch.uint8)
        self._wait(self._group.recv([text], rank, tag), key[0].of)
        layout, where = pickle.loads(text.numpy().tobytes())
        line = self._heard[key] = _Line(layout)
        if where is None:
            return
        try:
            line.inbox = Inbox(where, self._host)
        except OSError:
            line.inbox = None
        answer = torch.tensor([line.inbox is not None], dtype=torch.uint8)
        self._post(t, answer, key[0].of, _tag(t, key[0], LEAVES))

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
