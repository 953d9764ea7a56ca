"""The paths of the Open Inference Protocol, version 2."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.routing import Route

from sparring.serve import protocol, schemas, tensors
from sparring.serve.backend import Backend
from sparring.serve.catalogue import CANARY, canary_of, card_of, shape_of, version_of
from sparring.serve.reading import Readers
from sparring.serve.settings import Settings

BINARY = "inference-header-content-length"  # bytes of JSON before those of tensors
MODEL = "/v2/models/{name}"
VERSIONED = f"{MODEL}/versions/{{version}}"


def router(backend: Backend, settings: Settings, readers: Readers) -> APIRouter:
    """All paths below ``/v2``."""
    paths = APIRouter(responses=schemas.ERRORS)

    @paths.get("/v2", summary="Server metadata")
    async def server() -> dict[str, Any]:
        return protocol.SERVER

    @paths.get("/v2/health/live", summary="Whether the server answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @paths.get("/v2/health/ready", summary="Whether every model that is to be served is")
    async def ready() -> JSONResponse:
        missing = [n for n in settings.models if not backend.models().get(n, {}).get("versions")]
        if missing or not any(m["versions"] for m in backend.models().values()):
            later = {"retry-after": str(settings.limits.retry_after)}
            return JSONResponse({"error": f"not ready: {', '.join(missing) or 'no model'}"}, 503, headers=later)
        return JSONResponse({"ready": True})

    @paths.get(MODEL, summary="A model's inputs and outputs")
    @paths.get(VERSIONED, summary="The same of one version")
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        number, _ = card_of(backend.models(), name, version_of(version))
        return protocol.metadata(name, backend.models()[name]["versions"], number)

    @paths.get(f"{MODEL}/ready", summary="Whether a model is ready")
    @paths.get(f"{VERSIONED}/ready", summary="The same of one version")
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        card_of(backend.models(), name, version_of(version))
        return {"name": name, "ready": True}

    asked = infer(backend, settings, readers)  # both are described here, and answered by the same in ``routes``

    @paths.post(f"{MODEL}/infer", summary="Logits and probabilities of images", openapi_extra=schemas.INFER)
    async def newest(name: str, request: Request) -> Response:
        return await asked(request)

    @paths.post(f"{VERSIONED}/infer", summary="The same of one version", openapi_extra=schemas.INFER)
    async def versioned(name: str, version: str, request: Request) -> Response:
        return await asked(request)

    return paths


def infer(backend: Backend, settings: Settings, readers: Readers) -> Callable[[Request], Awaitable[Response]]:
    """What answers ``/infer``."""

    async def answered(request: Request) -> Response:
        name, asked_version = request.path_params["name"], version_of(request.path_params.get("version"))
        _, card = card_of(backend.models(), name, asked_version)
        body = await request.body()

        def read() -> tuple[Any, dict[str, bool], str | None]:
            text, raw = tensors.split(body, request.headers.get(BINARY))
            asked = protocol.parse_json(text, most=protocol.most_of(shape_of(card), settings.limits.images))
            wanted = protocol.outputs(asked, protocol.output_names(card))
            x = tensors.images(asked, raw, shape_of(card), most=settings.limits.images)
            return x, wanted, protocol.request_id(asked)

        x, wanted, own_id = await readers.numbers(body, read)
        result = await backend.predict(name, asked_version, x, canary=canary_of(request.headers.get(CANARY)))
        told, behind = protocol.answer(name, result, wanted, id=own_id)
        if not behind:
            return JSONResponse(told)
        head = json.dumps(told).encode()
        sizes = {BINARY: str(len(head))}
        return Response(b"".join([head, *behind]), media_type="application/octet-stream", headers=sizes)

    return answered


def routes(backend: Backend, settings: Settings, readers: Readers) -> list[Route]:
    """``/infer`` as plain Starlette has it: of a small network's answer FastAPI's way to a function takes longer than all the rest."""
    asked = infer(backend, settings, readers)
    return [Route(f"{place}/infer", asked, methods=["POST"]) for place in (MODEL, VERSIONED)]
