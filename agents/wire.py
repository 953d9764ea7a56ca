"""Messages from process to process, without a store between them: each takes the way that was chosen for its reader.

The shape of a message is told once per value and number of images, ahead of the first such message; afterwards bytes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparring.agents.frames import Doubled, Layout, put_together, taken_apart
from sparring.agents.ways import Key, Way


class Wire:
    """One agent's end of the exchange.

    Args:
        ways: to and from every other agent.
        device: where this agent's messages are to be.
    """

    def __init__(self, ways: Mapping[str, Way], device: torch.device) -> None:
        self._ways, self._device = dict(ways), device
        self._all = list({id(way): way for way in ways.values()}.values())
        self._mine: dict[Key, tuple[Layout, Doubled]] = {}  # what this agent publishes

    def expect(self, t: int, key: Key) -> None:
        """Be ready for a value of step ``t``: it arrives while this agent computes."""
        self._ways[key[0].of].expect(t, key)

    def publish(self, t: int, key: Key, message: Any, to: Sequence[str]) -> Any:
        """Begin to send a message, and keep it: what this agent itself goes on with lies in memory of its own.

        Raises:
            ValueError: its shapes are others than those of the same value before.
            PeerLost: somebody is gone.
        """
        layout, tensors = taken_apart(message)
        if key not in self._mine:
            self._mine[key] = layout, Doubled(layout, self._device)
        before, places = self._mine[key]
        if before != layout:
            raise ValueError(
                f"{key[0].of}: what {key[1].verb} publishes in step {t} has other shapes or types than before for {key[2]} images; "
                "messages that change need --exchange store"
            )
        for way in self._all:
            readers = [agent for agent in to if self._ways[agent] is way]
            if readers:
                way.send(t, key, layout, tensors, readers)
        return put_together(layout, places.take(tensors))  # others have theirs already

    def receive(self, t: int, key: Key) -> Any:
        """The value's message, the receiver's alone until the next but one.

        Raises:
            PeerLost: its sender is gone or silent.
        """
        layout, tensors = self._ways[key[0].of].receive(t, key)
        return put_together(layout, [tensor.to(self._device) for tensor in tensors])

    def end(self, t: int) -> None:
        """Step ``t`` is over: what was sent in the one before has arrived, or its receiver is lost."""
        for way in self._all:
            way.end(t)

    def close(self) -> None:
        """Leave, so that whoever waits for this agent knows."""
        for way in self._all:
            way.close()
        self._ways.clear()
        self._all.clear()
