"""Questions that come while others are being answered are answered together.

Ray Serve's own ``@serve.batch`` closes a batch when its waiting time is over, whether or not the model is free: with no waiting
time, batches of one queue up before a busy model. Here a batch is what waits at the moment at which the model becomes free,
so that a lone question never waits and a burst goes through in few passes (docs/serving.md has the figures).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """One function that answers lists of questions, in a thread of its own.

    Args:
        answer: questions -> as many answers, in order.
        most: questions that go together at most.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[A]], *, most: int) -> None:
        self._answer, self._most = answer, most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, question: Q) -> A:
        """The answer to a question; what ``answer`` raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if self._working is None:
            self._working = loop.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            now, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            now = [(q, f) for q, f in now if not f.done()]  # who asked may have gone
            if not now:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, [q for q, _ in now])
            except Exception as error:
                for _, future in now:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(now, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        self._working = None
