"""Questions that come while others are being answered are answered together.

Ray Serve's own ``@serve.batch`` closes a batch when its waiting time is over, whether or not the model is free: with no waiting
time, batches of one queue up before a busy model. Here a batch is what waits at the moment at which the model becomes free,
so that a lone question never waits and a burst goes through in few passes (docs/serving.md has the figures).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """One function that answers lists of questions, in a thread of its own.

    Args:
        answer: questions -> as many answers, in order; an exception among them is raised where that question was asked.
        most: what the questions that go together weigh at most; one alone may weigh more.
        weight: of a question.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A | Exception]],
        *,
        most: int,
        weight: Callable[[Q], int] = lambda _: 1,
    ) -> None:
        self._answer, self._most, self._weight = answer, most, weight
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
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
            now = self._next()
            if not now:
                continue
            try:
                answers: Sequence[A | Exception] = await loop.run_in_executor(
                    self._thread, self._answer, [q for q, _ in now]
                )
            except Exception as error:
                answers = [error] * len(now)
            for (_, future), answer in zip(now, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        self._working = None

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        """The oldest questions that go together; who has gone meanwhile is not answered."""
        now: list[tuple[Q, asyncio.Future[A]]] = []
        left = self._most
        while self._waiting:
            question, future = self._waiting[0]
            if not future.done():
                weight = self._weight(question)
                if now and weight > left:
                    break
                left -= weight
                now.append((question, future))
            self._waiting.popleft()
        return now
