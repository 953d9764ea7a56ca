"""A sender's memory for one value, and how readers on its host see it: two slots, one to be read while the other is written."""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Sequence
from io import BytesIO
from multiprocessing.reduction import ForkingPickler

import torch
from torch import Tensor

from sparring.agents.frames import ALIGNED, Doubled, Layout, views
from sparring.agents.meeting import PeerLost
from sparring.agents.shared import Place, opened, place_of

SLOTS = 2  # messages of one value that can be under way


class Slots:
    """The slots of one value in memory that both ends see: the sender writes, readers copy.

    Args:
        memory: bytes for all slots.
    """

    def __init__(self, layout: Layout, memory: Tensor) -> None:
        self._slots = [views(layout, part) for part in memory.chunk(SLOTS)]

    def write(self, count: int, tensors: Sequence[Tensor]) -> None:
        """Put the message that is the ``count``-th of its value into its slot; it is there when this returns."""
        for there, tensor in zip(self._slots[count % SLOTS], tensors, strict=True):
            there.copy_(tensor)
        _wait(self._slots[0])

    def read(self, count: int, into: Doubled) -> list[Tensor]:
        """A copy of the ``count``-th message; its slot may be written again when this returns."""
        mine = into.take(self._slots[count % SLOTS])
        _wait(mine)
        return mine


class Outbox(Slots):
    """A sender's, in memory without a name, which readers find through this process."""

    def __init__(self, layout: Layout) -> None:
        self._file = os.memfd_create("sparring")
        os.ftruncate(self._file, size_of(layout))
        self.place: Place | bytes = place_of(self._file)
        super().__init__(layout, torch.frombuffer(mmap.mmap(self._file, size_of(layout)), dtype=torch.uint8))

    def close(self) -> None:
        """Readers keep what they have mapped."""
        os.close(self._file)


class DeviceOutbox(Slots):
    """A sender's, in memory of its GPU, which CUDA lets other processes of the host open. Untried on a GPU."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._memory = torch.empty(size_of(layout), dtype=torch.uint8, device=device)
        self.place: Place | bytes = handle(self._memory)
        super().__init__(layout, self._memory)

    def close(self) -> None:
        """CUDA keeps it while somebody has it open."""


def inbox(place: Place | bytes, layout: Layout) -> Slots:
    """A sender's slots, as a reader sees them.

    Raises:
        PeerLost: they cannot be opened any more.
    """
    try:
        if isinstance(place, bytes):
            return Slots(layout, at_handle(place))
        file = opened(place, os.O_RDWR)
    except (OSError, RuntimeError) as error:
        raise PeerLost(f"its memory cannot be seen any more: {error}") from error
    seen = mmap.mmap(file, size_of(layout))
    os.close(file)
    return Slots(layout, torch.frombuffer(seen, dtype=torch.uint8))


def size_of(layout: Layout) -> int:
    """Bytes of all slots of a value."""
    return SLOTS * max(-(-layout.nbytes // ALIGNED), 1) * ALIGNED


def handle(tensor: Tensor) -> bytes:
    """What another process of this host opens a tensor of a GPU with."""
    told = BytesIO()
    ForkingPickler(told, pickle.HIGHEST_PROTOCOL).dump(tensor)
    return told.getvalue()


def at_handle(told: bytes) -> Tensor:
    """A tensor of another process's.

    Raises:
        RuntimeError: this process does not see its GPU.
    """
    made: Tensor = pickle.loads(told)
    return made


def _wait(tensors: Sequence[Tensor]) -> None:
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
