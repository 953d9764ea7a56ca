"""Memory that processes of one host share: a sender writes a message once, and whoever reads it copies it from there.

No name and no file: the memory is found through the sender's open files, by processes of the same user on the same host, and is gone
with the last of them, however they end.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SLOTS = 2
SMALLEST = 2**16  # bytes from which on sharing pays


@dataclass(frozen=True, slots=True)
class Where:
    """How another process finds it."""

    host: str
    pid: int
    file: int
    size: int  # bytes of a slot


class Outbox:
    """Two slots, each for one message: one is read while the other is written.

    Args:
        host: address of this host.
        size: bytes of a message.
    """

    def __init__(self, host: str, size: int) -> None:
        self._file = os.memfd_create("sparring")
        os.ftruncate(self._file, size * SLOTS)
        self._memory = mmap.mmap(self._file, size * SLOTS)
        self.where = Where(host, os.getpid(), self._file, size)

    def write(self, t: int, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Put a message of step ``t`` into its slot: the arrays one behind the other."""
        at = t % SLOTS * self.where.size
        for array in arrays:
            part = np.frombuffer(self._memory, np.uint8, array.nbytes, at)
            part[:] = array.reshape(-1).view(np.uint8)
            at += array.nbytes

    def close(self) -> None:
        """Readers keep what they have mapped."""
        os.close(self._file)


class Inbox:
    """A sender's slots, as a reader sees them.

    Raises:
        OSError: they are on another host, or out of this process's sight.
    """

    def __init__(self, where: Where, host: str) -> None:
        if where.host != host:
            raise OSError(f"on {where.host}")
        file = os.open(f"/proc/{where.pid}/fd/{where.file}", os.O_RDONLY)
        try:
            if os.fstat(file).st_size != where.size * SLOTS:
                raise OSError("another process's")
            self._memory = mmap.mmap(file, where.size * SLOTS, prot=mmap.PROT_READ)
        finally:
            os.close(file)
        self._where = where

    def read(self, t: int) -> np.ndarray[Any, Any]:
        """The bytes of step ``t``'s message, until the slot's next one."""
        return np.frombuffer(self._memory, np.uint8, self._where.size, t % SLOTS * self._where.size)
