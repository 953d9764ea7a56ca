"""A sender's memory for one value, and how readers on its host see it: two slots, one to be read while the other is written."""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Sequence
from io import BytesIO
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
from torch import Tensor

from sparring.agents.meeting import PeerLost
from sparring.agents.shared import Place, opened, place_of

SLOTS = 2  # messages of one value that can be under way


class Outbox:
    """Memory without a name, which readers find through this process.

    Args:
        size: bytes of a message.
    """

    def __init__(self, size: int) -> None:
        self._file, self._size = os.memfd_create("sparring"), size
        os.ftruncate(self._file, max(size, 1) * SLOTS)
        self._memory = torch.frombuffer(mmap.mmap(self._file, max(size, 1) * SLOTS), dtype=torch.uint8)
        self.place: Place | bytes = place_of(self._file)

    def write(self, count: int, parts: Sequence[Tensor]) -> None:
        """Put the message that is the ``count``-th of its value into its slot: the parts one behind the other."""
        at = count % SLOTS * self._size
        for part in parts:
            self._memory[at : at + len(part)].copy_(part)
            at += len(part)

    def close(self) -> None:
        """Readers keep what they have mapped."""
        os.close(self._file)


class Inbox:
    """A sender's slots, as a reader sees them."""

    def __init__(self, place: Place, size: int) -> None:
        try:
            file = opened(place, os.O_RDONLY)
        except OSError as error:
            raise PeerLost(f"its memory cannot be seen any more: {error}") from error
        self._memory, self._size = mmap.mmap(file, max(size, 1) * SLOTS, prot=mmap.PROT_READ), size
        os.close(file)

    def read(self, count: int) -> Tensor:
        """The ``count``-th message, copied."""
        return torch.from_numpy(np.frombuffer(self._memory, np.uint8, self._size, count % SLOTS * self._size).copy())


class DeviceOutbox:
    """Memory of this process's GPU, which CUDA lets other processes of the host open. Untried on a GPU."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._memory = torch.empty(max(size, 1) * SLOTS, dtype=torch.uint8, device=device)
        self.place: Place | bytes = handle(self._memory)

    def write(self, count: int, parts: Sequence[Tensor]) -> None:
        """As :meth:`Outbox.write`; it is there when this returns."""
        at = count % SLOTS * self._size
        for part in parts:
            self._memory[at : at + len(part)].copy_(part)
            at += len(part)
        _wait(self._memory)

    def close(self) -> None:
        """CUDA keeps it while somebody has it open."""


class DeviceInbox:
    """The same, as a reader sees it."""

    def __init__(self, place: bytes, size: int) -> None:
        self._memory, self._size = at_handle(place), size

    def read(self, count: int) -> Tensor:
        """The ``count``-th message, copied within the GPU."""
        at = count % SLOTS * self._size
        made = self._memory[at : at + self._size].clone()
        _wait(made)  # before the slot is given back
        return made


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


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
