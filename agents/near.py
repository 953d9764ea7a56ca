"""Between agents of one host: a slot that both see, a word through a pipe that a message is there, another that it was copied."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.agents.frames import Doubled, Layout
from sparring.agents.shared import LAYOUT, READY, TAKEN, Link
from sparring.agents.slots import SLOTS, DeviceOutbox, Outbox, Slots, inbox
from sparring.agents.ways import Key


@dataclass(slots=True)
class _Said:
    """A value that this agent publishes."""

    boxes: list[Outbox | DeviceOutbox] = field(default_factory=list)
    slots: deque[int] = field(default_factory=deque)  # steps whose message may still be read
    count: int = 0


@dataclass(slots=True)
class _Heard:
    """A value that another publishes."""

    layout: Layout
    slots: Slots
    mine: Doubled
    count: int = 0


class Near:
    """The way through memory: of the host, or of the sender's GPU to those who see it.

    Args:
        links: to the agents of this host.
        device: of this agent.
        openers: those who can open memory of this agent's GPU.
    """

    def __init__(self, links: Mapping[str, Link], device: torch.device, openers: frozenset[str]) -> None:
        self._links, self._device, self._openers = dict(links), device, openers
        self._said, self._heard = dict[Key, _Said](), dict[Key, _Heard]()

    def expect(self, t: int, key: Key) -> None:
        """A message arrives while this agent computes, whether it is ready or not."""

    def send(self, t: int, key: Key, layout: Layout, tensors: Sequence[Tensor], to: Sequence[str]) -> None:
        index = key[0].index
        if key not in self._said:
            self._said[key] = _Said(self._open(t, index, layout, to))
        said = self._said[key]
        if len(said.slots) == SLOTS:
            before = said.slots.popleft()
            for agent in to:
                self._links[agent].hear(TAKEN, before, index)
        for box in said.boxes:
            box.write(said.count, tensors)
        said.slots.append(t)
        said.count += 1
        for agent in to:
            self._links[agent].say(READY, t, index)

    def receive(self, t: int, key: Key) -> tuple[Layout, list[Tensor]]:
        link, index = self._links[key[0].of], key[0].index
        if key not in self._heard:
            layout, place = pickle.loads(link.hear(LAYOUT, t, index))
            self._heard[key] = _Heard(layout, inbox(place, layout), Doubled(layout, self._device))
        heard = self._heard[key]
        link.hear(READY, t, index)
        tensors = heard.slots.read(heard.count, heard.mine)
        heard.count += 1
        link.say(TAKEN, t, index)
        return heard.layout, tensors

    def end(self, t: int) -> None:
        """What was sent lies in its slot."""

    def close(self) -> None:
        for said in self._said.values():
            for box in said.boxes:
                box.close()
        for link in self._links.values():
            link.close()
        self._said.clear()
        self._heard.clear()
        self._links.clear()

    def _open(self, t: int, index: int, layout: Layout, to: Sequence[str]) -> list[Outbox | DeviceOutbox]:
        """Slots for a value, of each kind that its readers see; they are told where."""
        boxes: dict[bool, Outbox | DeviceOutbox] = {}
        for agent in to:
            on_device = agent in self._openers
            if on_device not in boxes:
                boxes[on_device] = DeviceOutbox(layout, self._device) if on_device else Outbox(layout)
            self._links[agent].say(LAYOUT, t, index, pickle.dumps((layout, boxes[on_device].place)))
        return list(boxes.values())
