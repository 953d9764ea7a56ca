"""Bodies turned into arrays: a small one where it came, large ones in threads, few at a time, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
READERS = 2  # at a time: each may take 20 bytes per pixel of the largest image
LARGE = 2**20  # bytes of a body after which memory is given back
AT_ONCE = 64 * 2**10  # bytes of JSON that are read sooner than a thread is woken: a millisecond's work at most


class Readers:
    """The threads of one process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS)

    async def numbers(self, body: bytes, work: Callable[[], T]) -> T:
        """What ``work`` makes of a body of numbers."""
        return work() if len(body) <= AT_ONCE else await self._apart(body, work)

    async def file(self, body: bytes, work: Callable[[], T]) -> T:
        """What ``work`` makes of a file, whose bytes do not tell how much it holds."""
        return await self._apart(body, work)

    async def _apart(self, body: bytes, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            if len(body) > LARGE:
                await asyncio.get_running_loop().run_in_executor(self._threads, _give_back)


def _give_back() -> None:
    """Let the operating system have what glibc keeps of memory that was freed; elsewhere nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
