"""Bodies as they come: bounds in bytes and in seconds that are the client's own."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from sparring.serve.bodies import Body, Late, TooLargeError, TooSlowError
from sparring.serve.codings import DamagedError, Inflated


def body(receive: Callable[[], Awaitable[dict[str, Any]]], **options: Any) -> Body:
    return Body(receive, **{"most": 100, "seconds": 1.0, "coding": b"identity", "late": Late(), **options})


async def read(coming: Body) -> bytes:
    whole = b""
    while True:
        message = await coming()
        whole += message["body"]
        if not message.get("more_body", False):
            return whole


def pieces(*parts: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    left = [{"type": "http.request", "body": p, "more_body": i + 1 < len(parts)} for i, p in enumerate(parts)]

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive


def split(content: bytes, size: int) -> Sequence[bytes]:
    return [content[i : i + size] for i in range(0, len(content), size)]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_coding_is_undone_piece_by_piece(size: int) -> None:
    content = bytes(range(90))
    coming = body(pieces(*split(gzip.compress(content), size)), most=200, coding=b"gzip")
    assert asyncio.run(read(coming)) == content


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_bounds_hold_for_what_comes_and_for_what_it_stands_for(size: int) -> None:
    with pytest.raises(TooLargeError):
        asyncio.run(read(body(pieces(*split(bytes(101), size)))))
    bomb = gzip.compress(bytes(10**6))
    assert len(bomb) < 2000
    with pytest.raises(TooLargeError):
        asyncio.run(read(body(pieces(*split(bomb, size)), most=5000, coding=b"gzip")))


def test_no_more_is_inflated_than_is_asked_for() -> None:
    assert len(Inflated(b"gzip")(gzip.compress(bytes(10**6)), most=10, last=True)) == 11


@pytest.mark.parametrize(
    "content",
    [b"", b"x", gzip.compress(b"x")[:-1], gzip.compress(b"x") + b"x"],
    ids=["nothing", "not gzip", "cut short", "and more"],
)
def test_damaged_codings(content: bytes) -> None:
    with pytest.raises(DamagedError):
        asyncio.run(read(body(pieces(content), coding=b"gzip")))


def test_a_client_that_is_slow() -> None:
    async def nothing() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def ask() -> None:
        late = Late()
        late.watch()  # as a service does: its loop is always late by some microseconds, which excuse nobody
        await read(body(nothing, seconds=0.2, late=late))

    started = time.monotonic()
    with pytest.raises(TooSlowError):
        asyncio.run(ask())
    assert 0.2 <= time.monotonic() - started < 10


def test_a_process_that_is_slow_blames_no_client() -> None:
    """The body's bytes came in time; that the loop was busy for longer than a body may take is not their sender's fault."""

    async def ask() -> bytes:
        late, came = Late(), asyncio.Event()
        late.watch()
        await asyncio.sleep(0.1)

        async def receive() -> dict[str, Any]:
            await came.wait()
            return {"type": "http.request", "body": b"x", "more_body": False}

        reading = asyncio.create_task(read(body(receive, seconds=1.0, late=late)))
        await asyncio.sleep(0.05)
        time.sleep(1.5)  # the loop does nothing else
        asyncio.get_running_loop().call_later(0.4, came.set)  # as long as its sender has left
        return await reading

    assert asyncio.run(ask()) == b"x"
