"""The HTTP surface: which path does what. It knows neither torch nor Ray; a :class:`Backend` answers for the models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router

from sparring.serve import grpc_door, manual, strict, v1, v2
from sparring.serve.backend import Backend, Busy
from sparring.serve.bodies import Receive, TooLargeError, TooSlowError
from sparring.serve.catalogue import NotFiniteError, NotFound
from sparring.serve.codings import DamagedError
from sparring.serve.drift import composed
from sparring.serve.guard import Guard, Send
from sparring.serve.heads import Scope, too_large
from sparring.serve.invalid import Invalid
from sparring.serve.reading import Readers
from sparring.serve.settings import Settings
from sparring.serve.tokens import Tokens
from sparring.trainers.decoder import Refused

VERSION = "1"
PAGE = Path(__file__).parent / "page"


def build(backend: Backend, settings: Settings, *, names_requests: bool = True) -> Guard:
    """The whole application, as an ASGI callable; ``names_requests``: see :class:`Guard`."""

    tokens = Tokens(settings.token_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with backend.running(), grpc_door.listening(backend, settings, tokens):
            yield

    handlers = _errors(settings)
    app = FastAPI(
        title="Sparring",
        version=VERSION,
        description="Robust image classifiers: the Open Inference Protocol v2, and simpler paths for images.",
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        dependencies=[Depends(strict.query)],
        default_response_class=JSONResponse,
        exception_handlers=handlers,
    )
    readers = Readers()
    app.include_router(v2.router(backend, settings, readers), tags=["Open Inference Protocol v2"])
    app.include_router(v1.router(backend, settings, readers), tags=["Images"])
    _own(app, backend)
    app.mount("/static", StaticFiles(directory=PAGE / "static"), name="static")
    quick = ExceptionMiddleware(Router(v2.routes(backend, settings, readers)), handlers=handlers)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        short = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/infer")
        await (quick if short and not scope["query_string"] else app)(scope, receive, send)

    return Guard(either, settings, tokens=tokens, watcher=backend, names_requests=names_requests)


def _own(app: FastAPI, backend: Backend) -> None:
    page = (PAGE / "index.html").read_text()

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    looking = (PAGE / "dashboard.html").read_text()

    @app.get("/dashboard", include_in_schema=False)
    async def dashboard() -> HTMLResponse:
        return HTMLResponse(looking)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(await asyncio.to_thread(manual.page, app.openapi()))

    @app.get("/v1/status", tags=["Operation"], summary="Load, latencies, versions and drift of the last five minutes")
    async def status() -> dict[str, Any]:
        return composed(backend.models(), await backend.status())

    summary = "Counts and latencies of all replicas, for Prometheus"

    @app.get("/metrics", tags=["Operation"], summary=summary, response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await backend.metrics(), media_type="text/plain; version=0.0.4")


def _errors(settings: Settings) -> dict[Any, Any]:
    """Who answers which: one shape for all of them, without a path or a stack."""

    def answers(status: int, text: Callable[[Any], str]) -> Any:
        async def handler(request: Request, error: Exception) -> JSONResponse:
            later = {"retry-after": str(settings.limits.retry_after)} if status == 503 else None
            return JSONResponse({"error": text(error)}, status, headers=later)

        return handler

    async def http(request: Request, error: HTTPException) -> JSONResponse:
        text = "no such path; see /docs" if error.status_code == 404 else str(error.detail)
        return JSONResponse({"error": text}, error.status_code, headers=error.headers)

    async def defect(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"internal error; request {request.state.request_id}"}, 500)

    def invalid(error: RequestValidationError) -> str:
        first = error.errors()[0]
        return f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"

    slow = f"the body did not arrive within {settings.limits.body_seconds:g} s"
    return {
        Exception: defect,
        HTTPException: http,
        RequestValidationError: answers(422, invalid),
        Invalid: answers(422, str),
        Refused: answers(422, str),
        NotFound: answers(404, str),
        NotFiniteError: answers(422, str),
        Busy: answers(503, str),
        DamagedError: answers(400, str),
        TooLargeError: answers(413, lambda error: too_large(settings.limits)),
        TooSlowError: answers(408, lambda error: slow),
    }
