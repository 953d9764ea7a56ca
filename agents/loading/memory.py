"""The loader's memory: slots of one step each, without a name, which its host and its workers write and agents read."""

from __future__ import annotations

import mmap
import os
from math import prod

import numpy as np


class Memory:
    """``slots`` arrays of uint8 [most, H, W, C] behind an open file.

    Args:
        file: of :func:`made`, or as it was received.
        shape: most, height, width, channels.
        writable: for those who fill slots.
    """

    def __init__(self, file: int, slots: int, shape: tuple[int, int, int, int], *, writable: bool) -> None:
        self.file, self.slots = file, slots  # the file may be closed once it is mapped
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapped = mmap.mmap(file, slots * prod(shape), mmap.MAP_SHARED, access)
        self._arrays = np.frombuffer(mapped, dtype=np.uint8).reshape(slots, *shape)

    def slot(self, i: int) -> np.ndarray:
        """[most, H, W, C]."""
        there: np.ndarray = self._arrays[i]
        return there


def made(nbytes: int) -> int:
    """An open file of so many bytes of memory; it is gone with the last process that has it open or mapped.

    Raises:
        OSError: the system has no such files.
    """
    file = os.memfd_create("sparring-loader")
    os.ftruncate(file, nbytes)
    return file
