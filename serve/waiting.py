"""Before Ray Serve's own proxy, which holds requests while there is no replica: they too end within the service's limit, with 503.

Serve 2.60 has such a proxy call a function without arguments for its middlewares, so what they need to know is in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

from starlette.middleware import Middleware

from sparring.serve.bodies import Message, Receive
from sparring.serve.guard import Send
from sparring.serve.heads import Scope
from sparring.serve.settings import Limits

LIMITS = "SPARRING_SERVE_LIMITS"  # JSON, for settings.Limits


class Waiting:
    """Wraps an ASGI application."""

    def __init__(self, app: Any, limits: Limits) -> None:
        self._app, self._seconds, self._later = app, limits.seconds, str(limits.retry_after).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start" and message["status"] == 503:
                headers = dict(message.get("headers", [])) | {b"retry-after": self._later}
                message = {**message, "headers": list(headers.items())}
            await send(message)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds) as limit:
                await self._app(scope, receive, told)  # which ends in silence when it is cancelled
        if limit.expired() and not begun:
            body = json.dumps({"error": f"no predictor was ready within {self._seconds:g} s"}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await told({"type": "http.response.start", "status": 503, "headers": headers})
            await told({"type": "http.response.body", "body": body})


def middlewares() -> list[Middleware]:
    """What Serve's proxy asks for."""
    return [Middleware(Waiting, limits=Limits.model_validate_json(os.environ.get(LIMITS, "{}")))]
