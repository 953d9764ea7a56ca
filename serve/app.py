"""The Ray Serve application: ``sparring.serve.app:app``, whose arguments are ``sparring.serve.settings.Settings``.

Deployments: **ingress** (limits, token, decoding; no torch in its process), **predictor** (models, batches), **attack**
(only with ``demo``; one at a time, at low priority) and **ledger** (counts of all ingresses, for ``/metrics``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from sparring.serve import background
from sparring.serve.backend import Busy
from sparring.serve.batches import Batches
from sparring.serve.catalogue import NotFound
from sparring.serve.ledger import Event, Ledger
from sparring.serve.settings import Settings

log = logging.getLogger("sparring.serve")
KEPT = 10_000  # counts that an ingress keeps while the ledger is away
FLUSH = 0.25  # seconds between reports of an ingress to the ledger
ONGOING = 128  # requests in a predictor at least: beyond that the router waits and asks again, which is slow
DRAIN = 20.0  # seconds that requests in flight have to end when a replica is stopped
NICE = 19  # of the attack: predictions go first
HEALTH = 2.0  # seconds between questions whether a replica is well
ATTEMPTS = 2  # a predictor that dies with a question is replaced, and the question asked once more


def app(settings: Settings | dict[str, Any]) -> Application:
    """The application, from settings or, as ``serve run`` and ``serve deploy`` give them, from a YAML file's arguments.

    Raises:
        pydantic.ValidationError: an unknown or a wrong argument.
    """
    settings = Settings.model_validate(settings)
    limits = settings.limits
    predictor = _deployment(
        Predictor,
        "predictor",
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus},
        max_ongoing_requests=max(ONGOING, 4 * settings.batch),
        max_queued_requests=limits.queue,
        **_replicas(settings),
    ).bind(settings)
    attack = None
    if settings.demo:
        one_at_a_time = {"max_ongoing_requests": 1, "max_queued_requests": 4}
        attack = _deployment(Attacker, "attack", ray_actor_options={"num_cpus": 0.25}, **one_at_a_time).bind(settings)
    counts = _deployment(Ledger, "ledger", ray_actor_options={"num_cpus": 0}).bind()
    return _deployment(
        ray_serve.ingress()(Ingress),
        "ingress",
        ray_actor_options={"num_cpus": 0.25},
        num_replicas=settings.ingresses,
        max_ongoing_requests=256,
        max_queued_requests=4 * limits.queue,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=limits.retry_after),
    ).bind(settings, predictor, attack, counts)


def _deployment(kind: type, name: str, **options: Any) -> Any:
    common = {"graceful_shutdown_timeout_s": DRAIN, "health_check_period_s": HEALTH}
    return ray_serve.deployment(name=name, **common, **options)(kind)


def _replicas(settings: Settings) -> dict[str, Any]:
    if settings.max_predictors is None or settings.max_predictors == settings.predictors:
        return {"num_replicas": settings.predictors}
    bounds = {"min_replicas": settings.predictors, "max_replicas": settings.max_predictors}
    return {"autoscaling_config": {**bounds, "target_ongoing_requests": 2 * settings.batch}}


class Predictor:
    """Models of one replica; ready once all that can be served were loaded and have answered."""

    def __init__(self, settings: Settings) -> None:
        import torch

        from sparring.serve.models import Models

        background.log_lines()
        torch.set_num_threads(settings.threads)
        self._models = Models(settings)
        self._models.poll()
        self._batches: Batches[Any, Any] = Batches(self._models.predict, most=settings.batch)
        background.every(settings.poll, self._models.poll)

    async def predict(self, name: str, version: int | None, x: np.ndarray) -> dict[str, Any]:
        """One answer of ``Models.predict``; ``{"unknown": why}`` when the version is not served."""
        from sparring.serve.models import Unknown

        answer = await self._batches.ask((name, version, x))
        return {"unknown": str(answer)} if isinstance(answer, Unknown) else answer

    def describe(self) -> dict[str, Any]:
        """See ``Models.describe``."""
        return self._models.describe()


class Attacker:
    """Attacks for the page, one at a time on one thread."""

    def __init__(self, settings: Settings) -> None:
        import torch

        from sparring.serve.models import Models

        background.log_lines()
        os.nice(NICE)
        torch.set_num_threads(1)
        self._models = Models(settings.model_copy(update={"gpus": 0.0}))
        self._models.poll()
        background.every(settings.poll, self._models.poll)

    def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        """See ``sparring.serve.attack.attack``; ``{"unknown": why}`` when the version is not served."""
        from sparring.serve.attack import attack
        from sparring.serve.models import Unknown

        try:
            number, served = self._models.get(name, version)
        except Unknown as error:
            return {"unknown": str(error)}
        return {"version": number, **attack(served, x, **options)}


class Ingress:
    """Takes requests; see ``sparring.serve.web``."""

    def __init__(self, settings: Settings, predictor: Any, attack: Any, counts: Any) -> None:
        background.log_lines()
        self._settings, self._backend = settings, Remote(settings, predictor, attack, counts)

    def __serve_build_asgi_app__(self) -> Any:
        from sparring.serve import web

        return web.build(self._backend, self._settings)


class Remote:
    """The backend of ``sparring.serve.web`` by handles of deployments."""

    def __init__(self, settings: Settings, predictor: Any, attack: Any, counts: Any) -> None:
        self._settings, self._predictor, self._attack, self._counts = settings, predictor, attack, counts
        self._models: dict[str, dict[str, Any]] = {}
        self._events: list[Event] = []
        self._open, self._stopping, self._me = 0, False, uuid.uuid4().hex

    def models(self) -> dict[str, dict[str, Any]]:
        return self._models

    async def predict(self, name: str, version: int | None, x: np.ndarray) -> dict[str, Any]:
        return await self._ask(self._predictor.predict, name, version, x)

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        return await self._ask(self._attack.attack, name, version, x, **options)

    async def metrics(self) -> bytes:
        try:
            await self._flush()
            return bytes(await self._counts.text.remote())
        except (RayActorError, BackPressureError, DeploymentUnavailableError):
            raise Busy("the counts are being started again; come again later") from None

    def came(self) -> bool:
        self._open += 1
        return not self._stopping

    def noted(self, method: str, route: str, status: int, seconds: float) -> None:
        self._open -= 1
        self._events.append((method, route, status, seconds))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._models = await self._predictor.describe.remote()
        tasks = [asyncio.create_task(self._refresh()), asyncio.create_task(self._report())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Exception):  # the ledger may be gone already
                await self._flush()

    async def _ask(self, method: Any, *args: Any, **options: Any) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            try:
                answer: dict[str, Any] = await method.remote(*args, **options)
                break
            except BackPressureError:
                raise Busy("too many requests wait; come again later") from None
            except (RayActorError, DeploymentUnavailableError) as error:
                log.warning("asked again: %s", type(error).__name__)
                if attempt == ATTEMPTS - 1:
                    raise Busy("who was to answer is gone; come again later") from None
        if "unknown" in answer:
            raise NotFound(answer["unknown"])
        return answer

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll)
            try:
                self._models = await self._predictor.describe.remote()
            except Exception as error:  # whatever it was, the next look may succeed; what is known goes on
                log.warning("looking for versions: %s", type(error).__name__)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            try:
                await self._flush()
            except Exception as error:
                log.warning("reporting counts: %s", type(error).__name__)

    async def _flush(self) -> None:
        events, self._events = self._events, []
        newest = {n: max(m["versions"]) for n, m in self._models.items() if m["versions"]}
        try:
            mine = {"replica": self._me, "open_now": self._open, "stopping": self._stopping}
            self._stopping = await self._counts.note.remote(events, newest, **mine)
        except Exception:
            self._events = (events + self._events)[-KEPT:]
            raise
