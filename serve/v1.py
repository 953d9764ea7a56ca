"""Paths for images as files: classify, the models' cards, and attacks for the demonstration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeGuard

import numpy as np
from fastapi import APIRouter, Query, Request

from sparring.serve import images, schemas
from sparring.serve.backend import Backend
from sparring.serve.catalogue import CANARY, NotFiniteError, canary_of, card_of, line, version_of
from sparring.serve.invalid import Invalid
from sparring.serve.protocol import parse_json
from sparring.serve.reading import Readers
from sparring.serve.settings import Settings
from sparring.trainers.decoder import Refused

MODEL = "/v1/models/{name}"
Top = Annotated[int, Query(ge=1, le=1000, description="Classes to name, most probable first.")]
Version = Annotated[str | None, Query(description="Default the newest.")]


def router(backend: Backend, settings: Settings, readers: Readers) -> APIRouter:
    """All paths below ``/v1``."""
    paths = APIRouter(responses=schemas.ERRORS)

    @paths.get("/v1/models", summary="Served models, their versions and how robust the newest was found to be")
    async def models() -> dict[str, Any]:
        return {"models": [line(n, m) for n, m in sorted(backend.models().items())], "demo": settings.demo}

    @paths.get(f"{MODEL}/card", summary="What a model is, learnt from, and withstands")
    async def card(name: str, version: Version = None) -> dict[str, Any]:
        return card_of(backend.models(), name, version_of(version))[1]

    @paths.post(f"{MODEL}:classify", summary="Classes of a PNG or JPEG image", openapi_extra=schemas.CLASSIFY)
    async def classify(name: str, request: Request, version: Version = None, top: Top = 5) -> dict[str, Any]:
        asked_version = version_of(version)
        _, card = card_of(backend.models(), name, asked_version)
        body = await request.body()

        def read() -> np.ndarray:
            content = body
            if _is_json(request):
                content = images.decode_base64(_text(parse_json(body), "image"))
            return images.prepared(content, card, pixels=settings.limits.pixels)

        x = await readers.file(body, read)
        result = await backend.predict(name, asked_version, x[None], canary=canary_of(request.headers.get(CANARY)))
        answer = {
            "model": name,
            "version": result["version"],
            "top": _top(result["probabilities"][0], card["classes"], top),
        }
        if "disagreement" in result:
            answer["disagreement"] = float(result["disagreement"][0])
        if "large" in result:
            answer["large"] = bool(result["large"][0])
        return answer

    if settings.demo:
        _attack(paths, backend, settings, readers)
    return paths


def _attack(paths: APIRouter, backend: Backend, settings: Settings, readers: Readers) -> None:
    @paths.post(f"{MODEL}:attack", summary="An image attacked on a model, for show", openapi_extra=schemas.ATTACK)
    async def attack(name: str, request: Request, version: Version = None, top: Top = 5) -> dict[str, Any]:
        asked_version = version_of(version)
        _, card = card_of(backend.models(), name, asked_version)
        body = await request.body()

        def read() -> tuple[np.ndarray, dict[str, Any]]:
            asked = parse_json(body)
            content = images.decode_base64(_text(asked, "image"))
            x = images.prepared(content, card, pixels=settings.limits.pixels)
            return x, _options(asked, card, settings)

        x, options = await readers.file(body, read)
        found = await backend.attack(name, asked_version, x, **options, seconds=settings.limits.attack_seconds)
        if not all(np.isfinite(found[key]).all() for key in ("before", "after", "adversarial")):
            raise NotFiniteError(
                f"model {name!r} version {found['version']} answers numbers that are not finite to this image"
            )
        difference = found["adversarial"] - x
        scale = max(float(np.abs(difference).max()), 1e-9)
        return {
            "model": name,
            "version": found["version"],
            "norm": found["norm"],
            "eps": options["eps"],
            "steps": found["steps"],
            "clean": _top(found["before"], card["classes"], top),
            "adversarial": _top(found["after"], card["classes"], top),
            "flipped": bool(found["before"].argmax() != found["after"].argmax()),
            "images": {
                "clean": images.encode(x),
                "adversarial": images.encode(found["adversarial"]),
                "perturbation": images.encode(0.5 + difference / scale / 2),  # stretched to be seen; grey is none
            },
        }


def _options(asked: Mapping[str, Any], card: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    eps, steps, label = asked.get("eps"), asked.get("steps", 10), asked.get("label")
    if not _number(eps) or not 0 <= eps <= 1:
        raise Invalid("eps must be a number from 0 to 1")
    most = settings.limits.attack_steps
    if not _number(steps) or steps != int(steps) or not 1 <= steps <= most:
        raise Invalid(f"steps must be a whole number from 1 to {most}")
    if label is not None and (not _number(label) or label != int(label) or not 0 <= label < len(card["classes"])):
        raise Invalid(f"label must be a whole number from 0 to {len(card['classes']) - 1}")
    return {"eps": float(eps), "steps": int(steps), "label": None if label is None else int(label)}


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked.get(key)
    if not isinstance(value, str):
        raise Refused(f"{key} must be a PNG or JPEG file in base64")
    return value


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _top(probabilities: np.ndarray, classes: list[str], count: int) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [{"class": classes[i], "index": int(i), "probability": float(probabilities[i])} for i in order]
