"""A request's body as it comes: counted, timed, inflated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from sparring.serve.codings import Inflated

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
TICK = 0.05  # seconds between looks at how late this process is


class TooLargeError(Exception):
    """More bytes came than a body may have."""


class TooSlowError(Exception):
    """The client did not send its body in time."""


class Late:
    """Seconds for which this process's event loop did nothing of what was due: time that no client is to blame for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin, in the running loop; once is enough."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self.seconds += max(0.0, time.monotonic() - due)


class Body:
    """``receive`` of an ASGI application, with bounds.

    Args:
        most: bytes, also once they are inflated.
        seconds: in which the body has to come; those for which this process was late do not count.
        coding: of the body; one of ``codings.CODINGS``.

    Raises, when it is called:
        TooLargeError, TooSlowError, DamagedError
    """

    def __init__(self, receive: Receive, *, most: int, seconds: float, coding: bytes, late: Late) -> None:
        self._receive, self._most, self._left, self._late = receive, most, most, late
        self._begun, self._late_before, self._seconds = time.monotonic(), late.seconds, seconds
        self._inflated = Inflated(coding)
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # waits for the client to go away
        message = await self._in_time()
        if message["type"] != "http.request":
            return message
        body, last = message.get("body", b""), not message.get("more_body", False)
        self._most -= len(body)
        if self._most < 0:
            raise TooLargeError
        body = self._inflated(body, most=self._left, last=last)
        self._left -= len(body)
        if self._left < 0:
            raise TooLargeError
        self._whole = last
        return {**message, "body": body}

    async def _in_time(self) -> Message:
        while True:
            try:
                async with asyncio.timeout(max(self._seconds_left(), 0.001)):
                    return await self._receive()
            except TimeoutError:
                await asyncio.sleep(TICK)  # then it is known how late this process was
                if self._seconds_left() <= 0:
                    raise TooSlowError from None

    def _seconds_left(self) -> float:
        """That the client has."""
        late = self._late.seconds - self._late_before
        return self._begun + self._seconds + late - time.monotonic()
