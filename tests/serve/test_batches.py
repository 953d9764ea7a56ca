"""Questions are answered together when the model is busy, at once when it is not, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from sparring.serve.batches import Batches


def test_a_burst_goes_together_and_a_lone_question_does_not_wait() -> None:
    sizes: list[int] = []
    free = threading.Event()

    def answer(asked: Sequence[int]) -> list[int]:
        sizes.append(len(asked))
        free.wait(5)
        return [2 * q for q in asked]

    async def ask() -> list[int]:
        batches = Batches(answer, most=8)
        first = asyncio.create_task(batches.ask(0))
        while not sizes:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batches.ask(i)) for i in range(1, 20)]
        await asyncio.sleep(0)
        free.set()
        return list(await asyncio.gather(first, *rest))

    assert asyncio.run(ask()) == [2 * i for i in range(20)]
    assert sizes == [1, 8, 8, 3]


def test_an_error_reaches_everyone_who_asked_and_nobody_else() -> None:
    def answer(asked: Sequence[int]) -> list[int]:
        if 13 in asked:
            raise ValueError("thirteen")
        return list(asked)

    async def ask() -> list[object]:
        batches = Batches(answer, most=1)
        return await asyncio.gather(*(batches.ask(i) for i in (12, 13, 14)), return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert (first, third) == (12, 14)
    assert isinstance(second, ValueError)


def test_who_has_gone_is_not_answered() -> None:
    seen: list[int] = []
    free = threading.Event()

    def answer(asked: Sequence[int]) -> list[int]:
        free.wait(5)
        seen.extend(asked)
        return list(asked)

    async def ask() -> None:
        batches = Batches(answer, most=1)
        tasks = [asyncio.create_task(batches.ask(i)) for i in range(3)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.sleep(0)
        free.set()
        assert await tasks[0] == 0
        assert await tasks[2] == 2
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]

    asyncio.run(ask())
    assert seen == [0, 2]


def test_a_batch_is_counted_by_weight() -> None:
    """Of a large question and small ones: a lone small one does not wait behind more than fits together."""
    seen: list[list[int]] = []
    free = threading.Event()

    def answer(asked: Sequence[int]) -> list[int]:
        seen.append(list(asked))
        free.wait(5)
        return list(asked)

    async def ask() -> None:
        batches = Batches(answer, most=10, weight=lambda q: q)
        first = asyncio.create_task(batches.ask(1))
        while not seen:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batches.ask(q)) for q in (4, 6, 1, 30, 2, 3)]
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(first, *rest)

    asyncio.run(ask())
    assert seen == [[1], [4, 6], [1], [30], [2, 3]]


def test_an_answer_may_be_an_error_of_one_question() -> None:
    def answer(asked: Sequence[int]) -> list[int | Exception]:
        return [ValueError("odd") if q % 2 else q for q in asked]

    async def ask() -> list[object]:
        batches = Batches(answer, most=8)
        return await asyncio.gather(*(batches.ask(i) for i in range(4)), return_exceptions=True)

    found = asyncio.run(ask())
    assert [found[0], found[2]] == [0, 2]
    assert [str(found[1]), str(found[3])] == ["odd", "odd"]
