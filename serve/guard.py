"""What stands before every request, as ASGI middleware: its head, its body's bounds, the time it may take, one line of log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from sparring.serve import background, heads
from sparring.serve.bodies import Body, Late, Message, Receive
from sparring.serve.heads import LIVE, Rejection, Scope
from sparring.serve.settings import Settings
from sparring.serve.tokens import Tokens

Send: TypeAlias = Callable[[Message], Awaitable[None]]


class Watcher(Protocol):
    """Who is told of requests."""

    def came(self, method: str) -> bool:
        """A request has come; False: it is to be refused, because the service is stopping."""

    def noted(self, method: str, route: str, status: int, seconds: float) -> None:
        """That request was answered."""


log = logging.getLogger("sparring.serve")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OPEN_MOST = 224  # requests of one process at a time
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Wraps an ASGI application.

    Args:
        tokens: that requests must carry. Where none is needed only requests to this machine by its own name are answered, so
            that a page from elsewhere cannot reach the service through its reader's browser.
        watcher: told of every request but those that ask whether the service lives.
        names_requests: answers carry the request's id; False where whoever stands before this writes it there.
    """

    def __init__(
        self, app: Any, settings: Settings, *, tokens: Tokens, watcher: Watcher, names_requests: bool = True
    ) -> None:
        self._app, self._limits, self._tokens, self._watcher = app, settings.limits, tokens, watcher
        self._open, self._late, self._names = 0, Late(), names_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = _Asked(scope, send, names=self._names)
        if scope["path"] == LIVE:  # whatever the load is
            await self._answer(asked, receive)
            return
        self._open += 1
        stopping = not self._watcher.came(asked.method)
        try:
            if stopping or self._open > OPEN_MOST:
                text = "the service is stopping" if stopping else "too many requests wait; come again later"
                await asked.reject(self._later(text))
            else:
                await self._answer(asked, receive)
        finally:
            self._open -= 1
            self._watcher.noted(asked.method, asked.route, asked.status, asked.seconds)
            background.written(asked.line())

    async def _answer(self, asked: _Asked, receive: Receive) -> None:
        scope = asked.scope
        try:
            headers = heads.checked(scope, self._limits, self._tokens)
            self._late.watch()
            body = Body(
                receive,
                most=self._limits.body_bytes,
                seconds=self._limits.body_seconds,
                coding=heads.coding(headers),
                late=self._late,
            )
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, body, asked.send)
        except Rejection as rejection:
            await asked.reject(rejection)
        except asyncio.CancelledError:
            asked.status = 499  # who asked has gone
            raise
        except TimeoutError:
            await asked.reject(self._later(f"no answer within {self._limits.seconds:g} s"))
        except Exception:
            log.exception("request %s", asked.id)
            await asked.reject(Rejection(500, f"internal error; request {asked.id}"))

    def _later(self, text: str) -> Rejection:
        return Rejection(503, text, ((b"retry-after", str(self._limits.retry_after).encode()),))


class _Asked:
    """One request, and what becomes of it."""

    def __init__(self, scope: Scope, send: Send, *, names: bool) -> None:
        self.method = scope["method"] if scope["method"] in METHODS else "other"
        head = scope["method"] == "HEAD"  # answered as GET, whose content the server leaves out (RFC 9110, 9.3.2)
        self.scope: Scope = {**scope, "method": "GET"} if head else scope
        self._send, self._started = send, time.monotonic()
        self.status, self._begun = 500, False
        given = next((v for k, v in scope["headers"] if k.lower() == b"x-request-id"), b"")
        self.id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._own = [*HEADERS, (b"x-request-id", self.id.encode())] if names else HEADERS
        self.scope["state"] = {**scope.get("state", {}), "request_id": self.id}

    @property
    def route(self) -> str:
        """The form of its path: a caller cannot make as many as it likes."""
        return getattr(self.scope.get("route"), "path", "other")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def line(self) -> str:
        """Of log."""
        line = {"request": self.id, "method": self.method, "route": self.route, "status": self.status}
        return json.dumps({**line, "ms": round(1000 * self.seconds, 1)})

    async def send(self, message: Message) -> None:
        """A part of the answer."""
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
            own = [(k, v) for k, v in message.get("headers", []) if k.lower() != b"server"]
            message = {**message, "headers": [*own, *self._own]}
        await self._send(message)

    async def reject(self, why: Rejection) -> None:
        """An error in the one shape that all have, unless an answer is on its way already."""
        if self._begun:
            return
        headers = [(b"content-type", b"application/json"), *why.headers]
        await self.send({"type": "http.response.start", "status": why.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": json.dumps({"error": why.text}).encode()})
