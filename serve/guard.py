"""What stands before every request, as ASGI middleware: token, size, time, headers, one line of log."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

from sparring.serve.settings import Limits, Settings

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class Watcher(Protocol):
    """Who is told of requests."""

    def came(self) -> bool:
        """A request has come; False: it is to be refused, because the service is stopping."""

    def noted(self, method: str, route: str, status: int, seconds: float) -> None:
        """That request was answered."""


log = logging.getLogger("sparring.serve")
LIVE = "/v2/health/live"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OPEN_MOST = 224  # requests of one ingress: below the number at which Ray Serve's proxy refuses in its own words
OPEN = ("/", "/docs", "/openapi.json", LIVE, "/v2/health/ready")  # need no token, nor do /static/ files
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


class TooLargeError(Exception):
    """More bytes came than a body may have."""


class TooSlowError(Exception):
    """The body did not come in time."""


class Guard:
    """Wraps an ASGI application.

    Args:
        token: that requests must carry; None: none. Without a token only requests to this machine by its own name are
            answered, so that a page from elsewhere cannot reach the service through its reader's browser.
        watcher: told of every request.
    """

    def __init__(self, app: Any, settings: Settings, *, token: str | None, watcher: Watcher) -> None:
        self._app, self._limits, self._token, self._watcher = app, settings.limits, token, watcher
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = {k.lower(): v for k, v in scope["headers"]}
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500
        begun = False

        async def sending(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                own = [(k, v) for k, v in message.get("headers", []) if k.lower() != b"server"]
                message = {**message, "headers": [*own, *HEADERS, (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            refused = self._refused(scope, headers)
            self._open += 1
            if not self._watcher.came() and scope["path"] != LIVE:
                await error(sending, 503, "the service is stopping", self._limits.retry_after)
            elif self._open > OPEN_MOST:
                await error(sending, 503, "too many requests wait; come again later", self._limits.retry_after)
            elif refused is not None:
                await error(sending, *refused)
            else:
                body = _Body(receive, most=self._limits.body_bytes, seconds=self._limits.body_seconds)
                async with asyncio.timeout(self._limits.seconds):
                    await self._app(scope, body, sending)
        except asyncio.CancelledError:
            status = 499  # who asked has gone
            raise
        except TimeoutError:
            await _once(begun, sending, 503, f"no answer within {self._limits.seconds:g} s", self._limits.retry_after)
        except Exception:
            log.exception("request %s", request_id)
            await _once(begun, sending, 500, f"internal error; request {request_id}")
        finally:
            self._open -= 1
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - started
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._watcher.noted(method, route, status, seconds)
            line = {"request": request_id, "method": method, "route": route, "status": status}
            log.info("%s", json.dumps({**line, "ms": round(1000 * seconds, 1)}))

    def _refused(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        length = headers.get(b"content-length")
        if length is not None and not (length.isdigit() and len(length) < 16):
            return 400, "content-length is not a number"
        if length is not None and int(length) > self._limits.body_bytes:
            return 413, too_large(self._limits)
        if self._token is None:
            return self._foreign(scope, headers)
        path = scope["path"]
        if path in OPEN or path.startswith("/static/"):
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token.encode()):
            return 401, "a bearer token is needed: Authorization: Bearer TOKEN"
        return None

    def _foreign(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Without a token only this machine is answered, by its own name, and no page from elsewhere in its browser."""
        client = scope.get("client")
        named = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname
        if not _here(named) or (client is not None and not _here(client[0])):
            return 421, "this service answers only to this machine's own name; others need it to have a token"
        origin = headers.get(b"origin")
        elsewhere = origin is not None and not _here(urlsplit(origin.decode("latin-1")).hostname)
        if elsewhere or headers.get(b"sec-fetch-site") == b"cross-site":
            return 403, "a page from elsewhere may not ask this service"
        return None


def _here(host: str | None) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def too_large(limits: Limits) -> str:
    """What a client hears whose body is too large."""
    return f"the body is larger than {limits.body_bytes} bytes"


class _Body:
    """``receive`` that counts bytes and seconds while a body comes."""

    def __init__(self, receive: Receive, *, most: int, seconds: float) -> None:
        self._receive, self._most, self._deadline = receive, most, time.monotonic() + seconds
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # waits for the client to go away
        try:
            async with asyncio.timeout(max(self._deadline - time.monotonic(), 0.001)):
                message = await self._receive()
        except TimeoutError:
            raise TooSlowError from None
        self._most -= len(message.get("body", b""))
        if self._most < 0:
            raise TooLargeError
        self._whole = not message.get("more_body", False)
        return message


async def _once(begun: bool, send: Send, status: int, text: str, retry_after: int | None = None) -> None:
    """An error, unless an answer is on its way already."""
    if not begun:
        await error(send, status, text, retry_after)


async def error(send: Send, status: int, text: str, retry_after: int | None = None) -> None:
    """Send an answer of the one shape that all errors have."""
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": text}).encode()})
