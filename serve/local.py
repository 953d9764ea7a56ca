"""The application in one process, without Ray: a laptop, or a container behind a balancer of somebody's own.

client -> uvicorn (Bounded) -> Guard -> paths (v1, v2, web) -> Server: models, batches, in this process
                                                               Apart: attacks, in another
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sparring.serve import background, web
from sparring.serve.attack import Attacker
from sparring.serve.backend import Busy
from sparring.serve.ledger import Ledger, Report
from sparring.serve.server import Server
from sparring.serve.settings import Settings

ATTACKS = 5  # that may wait, the one that runs among them
BACKLOG = 2048  # connections that the kernel holds until they are taken
KEEP_ALIVE = 60  # seconds for which a connection without requests stays open
HEAD_SECONDS = 10.0  # for a request's head to come
HEAD_BYTES = 128 * 2**10  # of a head that is still coming; a whole one is held to the settings' limit

_attacker: Attacker | None = None  # of a process that attacks


def run(
    settings: Settings, host: str, port: int, *, drain: float, ready: Callable[[], None], stopping: Callable[[], None]
) -> None:
    """Answer until SIGINT or SIGTERM, then let requests in flight end.

    Args:
        drain: seconds that they have.
        ready: called once requests are answered.
        stopping: called once no more are taken.

    Raises:
        OSError: host and port cannot be listened on.
        ValueError: the token's file.
    """
    background.log_lines()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=BACKLOG) as listening:
        _run(settings, listening, drain=drain, ready=ready, stopping=stopping)


def _run(
    settings: Settings,
    listening: socket.socket,
    *,
    drain: float,
    ready: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    attacks = Apart(settings) if settings.demo else None
    application = web.build(Server(settings, counts=Here(), attacks=attacks), settings)
    config = uvicorn.Config(
        application,
        http=Bounded,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(drain),
    )
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(
                number, _nothing
            )  # uvicorn's own end a service in good order, then hand the signal on to these
        _Server(config, ready, stopping).run(sockets=[listening])
    finally:
        if attacks is not None:
            attacks.stop()


def _nothing(number: int, frame: FrameType | None) -> None:
    """The service has ended."""


class Here:
    """The counts of this process are all."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    async def note(self, report: Report) -> bool:
        return self._ledger.note(report)

    async def text(self) -> bytes:
        return self._ledger.text()

    async def status(self) -> dict[str, Any]:
        return self._ledger.status()


class Apart:
    """Attacks in a process of their own."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._waiting = settings, 0
        self._pool = self._begun()

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        if self._waiting >= ATTACKS:
            raise Busy("too many requests wait; come again later")
        self._waiting += 1
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, _attack, name, version, x, options)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = self._begun()
            raise Busy("who was to answer is gone; come again later") from None
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """End the process, whatever it does: while it loads, or attacks, it would be waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()

    def _begun(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # not fork: torch's threads do not live on in a copy
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(self._settings,))
        pool.submit(os.getpid)  # it starts now, and not with the first attack
        return pool


def _begin(settings: Settings) -> None:
    global _attacker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the service ends this process
    _attacker = Attacker(settings)


def _attack(name: str, version: int | None, x: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    assert _attacker is not None
    return _attacker.attack(name, version, x, **options)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stopping = ready, stopping

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: Any = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


class Bounded(HttpToolsProtocol):
    """Heads that come in time and stay small; ``scope["target"]`` is that of the request line, which may name a host."""

    _coming = 0  # bytes of a head that is not whole
    _in_head = True
    _timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._coming += len(data)
            if self._coming > HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget()
        self.scope["target"] = self.url  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def _expect(self) -> None:
        self._in_head, self._coming = True, 0
        self._forget()
        late = (b"408 Request Timeout", b"the request's head did not come in time")
        self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, *late)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes, why: bytes) -> None:
        if not self.transport.is_closing():
            body = b'{"error": "' + why + b'"}'
            length = str(len(body)).encode()
            head = (
                b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "
            )
            self.transport.write(head + length + b"\r\n\r\n" + body)
            self.transport.close()
