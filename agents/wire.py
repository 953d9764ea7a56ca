"""Messages from process to process, without a store between them: torch.distributed's gloo, rank to rank.

    packed message ---> its arrays, each sent as it is ---> buffers of the receiver's, posted before the step ---> the same message

Who takes part meets through whoever started the processes: each opens a socket and says its address (:class:`Meeting`), and joins
once it knows everybody's. There is no rendezvous at which a stranger could ask.

The shape of a message is told once per value and number of images, ahead of the first such message; afterwards bytes only.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, distributed

from sparring.agents.exchange import BFloat16, map_leaves
from sparring.agents.program import Call, Value

Key: TypeAlias = tuple[Value, Call, int]  # whose message has one shape: the value, what makes it, for how many images
STEPS = 4  # after so many steps tags come again; far more than are in flight
LEAVES = 1000  # arrays in a message, at most


class PeerLost(RuntimeError):
    """Another agent is gone or silent: infrastructure, not the program's own error."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The place of an array in a message."""

    index: int
    dtype: str
    shape: tuple[int, ...]
    bits: bool = False  # the integers of a bfloat16


@dataclass(frozen=True, slots=True)
class Layout:
    """A message without its numbers."""

    frame: Any  # the message with a Leaf at the place of every array
    leaves: tuple[Leaf, ...]


def taken_apart(message: Any) -> tuple[Layout, list[np.ndarray[Any, Any]]]:
    """A packed message's layout and its arrays, contiguous."""
    leaves: list[Leaf] = []
    arrays: list[np.ndarray[Any, Any]] = []

    def take(a: Any) -> Leaf:
        array = np.ascontiguousarray(a.bits if isinstance(a, BFloat16) else a)
        leaf = Leaf(len(leaves), array.dtype.str, array.shape, isinstance(a, BFloat16))
        leaves.append(leaf)
        arrays.append(array)
        return leaf

    return Layout(map_leaves(take, message), tuple(leaves)), arrays


def put_together(layout: Layout, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    """The message again."""

    def give(leaf: Leaf) -> Any:
        return BFloat16(arrays[leaf.index]) if leaf.bits else arrays[leaf.index]

    return map_leaves(give, layout.frame)


class Meeting:
    """One process on its way into a group.

    Args:
        rank, size: its place, and how many there are.
        host: this host's address as the others see it.
        timeout: seconds in which all must have come, and after which a silent one counts as lost.
    """

    def __init__(self, rank: int, size: int, host: str, *, timeout: float) -> None:
        self._store = distributed.HashStore()  # type: ignore[attr-defined]
        self._timeout, self._made = timeout, dict[str, Any]()
        options = distributed.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timedelta(seconds=timeout)
        options._devices = [distributed.ProcessGroupGloo.create_device(hostname=host)]

        def join() -> None:
            try:
                self._made["group"] = distributed.ProcessGroupGloo(self._store, rank, size, options)
            except RuntimeError as error:
                self._made["error"] = error

        self._thread = threading.Thread(target=join, daemon=True)
        self._thread.start()

    def address(self) -> dict[str, bytes]:
        """Where the others find this one."""
        ended = time.monotonic() + self._timeout
        while not (keys := self._store.list_keys()):
            if "error" in self._made or time.monotonic() > ended:
                raise PeerLost(f"no socket could be opened: {self._made.get('error', 'no answer')}")
            time.sleep(0.001)
        return {key: self._store.get(key) for key in keys}

    def join(self, addresses: Mapping[str, bytes]) -> Any:
        """The group, once all have been told everybody's address.

        Raises:
            PeerLost: somebody did not come in time.
        """
        for key, value in addresses.items():
            self._store.set(key, value)  # type: ignore[arg-type]  # bytes are what comes out of a store
        self._thread.join(self._timeout + 1)
        if "group" not in self._made:
            raise PeerLost(f"the agents did not meet: {self._made.get('error', 'no answer in time')}")
        return self._made["group"]


@dataclass(slots=True)
class _Coming:
    """A message under way to this process."""

    layout: Layout
    buffers: list[Tensor]
    works: list[Any]
    message: Any = None


@dataclass(slots=True)
class Wire:
    """One agent's end of the exchange.

    Args:
        group: all agents'.
        ranks: everybody's place in it.
        timeout: seconds after which a silent agent counts as lost.
    """

    group: Any
    ranks: Mapping[str, int]
    timeout: float
    _told: dict[Key, Layout] = field(default_factory=dict)  # layouts that this agent has sent
    _known: dict[Key, Layout] = field(default_factory=dict)  # those that it was told
    _buffers: dict[Key, list[Tensor]] = field(default_factory=dict)
    _coming: dict[Value, _Coming] = field(default_factory=dict)
    _going: list[tuple[int, Any, Any]] = field(default_factory=list)  # step, work, and what must live until then

    def expect(self, t: int, key: Key) -> None:
        """Be ready for a value of step ``t`` whose layout is known: it arrives while this agent computes."""
        if key in self._known:
            self._coming[key[0]] = self._posted(t, key, self._known[key])

    def send(self, t: int, key: Key, message: Any, to: Sequence[str]) -> None:
        """Begin to send a packed message; it must not change until the next step.

        Raises:
            ValueError: its shapes are others than those of the same value before.
        """
        layout, arrays = taken_apart(message)
        self._tell(t, key, layout, to)
        for leaf, array in zip(layout.leaves, arrays, strict=True):
            flat = _flat(array)
            for agent in to:
                self._post(t, flat, agent, _tag(t, key[0], 1 + leaf.index))

    def receive(self, t: int, key: Key) -> Any:
        """The value's packed message, in memory of this wire's: whoever takes it copies it."""
        value = key[0]
        if value not in self._coming:
            self._known[key] = self._hear(t, key)
            self.expect(t, key)
        coming = self._coming[value]
        if coming.message is None:
            for work in coming.works:
                self._wait(work, value.of)
            arrays = [
                buffer.numpy().view(leaf.dtype).reshape(leaf.shape)
                for leaf, buffer in zip(coming.layout.leaves, coming.buffers, strict=True)
            ]
            coming.message = put_together(coming.layout, arrays)
        return coming.message

    def close(self) -> None:
        """Leave the group, so that whoever waits for this agent knows."""
        self._coming.clear()
        self._going.clear()
        self.group = None

    def end(self, t: int) -> None:
        """Step ``t`` is over: what was sent in the one before has arrived, or its receiver is lost."""
        self._coming.clear()
        for step, work, _ in self._going:
            if step < t:
                self._wait(work, "another agent")
        self._going = [going for going in self._going if going[0] == t]

    def _posted(self, t: int, key: Key, layout: Layout) -> _Coming:
        if key not in self._buffers:
            sizes = [int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in layout.leaves]
            self._buffers[key] = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        buffers, rank = self._buffers[key], self.ranks[key[0].of]
        works = [
            self.group.recv([buffer], rank, _tag(t, key[0], 1 + leaf.index)) if buffer.numel() else None
            for leaf, buffer in zip(layout.leaves, buffers, strict=True)
        ]
        return _Coming(layout, buffers, works)

    def _tell(self, t: int, key: Key, layout: Layout, to: Sequence[str]) -> None:
        known = self._told.setdefault(key, layout)
        if known is not layout:
            if known != layout:
                raise ValueError(
                    f"{key[0].of}: what {key[1].verb} publishes in step {t} has other shapes or types than before for {key[2]} images; "
                    "messages that change need --exchange store"
                )
            return
        text = torch.frombuffer(bytearray(pickle.dumps(layout)), dtype=torch.uint8)
        size = torch.tensor([len(text)])
        for agent in to:
            for part in (size, text):
                self._post(t, part, agent, _tag(t, key[0], 0))

    def _hear(self, t: int, key: Key) -> Layout:
        """What :meth:`_tell` says."""
        size, rank, tag = torch.empty(1, dtype=torch.int64), self.ranks[key[0].of], _tag(t, key[0], 0)
        self._wait(self.group.recv([size], rank, tag), key[0].of)
        text = torch.empty(int(size), dtype=torch.uint8)
        self._wait(self.group.recv([text], rank, tag), key[0].of)
        layout: Layout = pickle.loads(text.numpy().tobytes())
        return layout

    def _post(self, t: int, part: Tensor, agent: str, tag: int) -> None:
        if part.numel():
            self._going.append((t, self.group.send([part], self.ranks[agent], tag), part))

    def _wait(self, work: Any, whom: str) -> None:
        try:
            if work is not None:
                work.wait(timedelta(seconds=self.timeout))
        except RuntimeError as error:
            raise PeerLost(f"{whom} is gone or silent: {str(error).splitlines()[0]}") from error


def _flat(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


def _tag(t: int, value: Value, part: int) -> int:
    """A number per value and array, the same at both ends; the sender's rank tells agents apart."""
    return (t % STEPS) << 24 | value.index * (LEAVES + 1) + part
