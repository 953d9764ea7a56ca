"""The Ray Serve application: ``sparring.serve.app:app``, whose arguments are ``sparring.serve.settings.Settings``.

    client -> HAProxy or Serve's proxy -> predictor: Guard, paths, models, batches, in one process (``server.py``)
                                          attack (only with ``demo``; one at a time, at low priority)
                                          ledger (counts of all predictors, for ``/metrics``)

With HAProxy a predictor reads HTTP itself, on a port of its own: nothing of Python lies between it and the client.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from sparring.serve import background
from sparring.serve.backend import Busy
from sparring.serve.catalogue import NotFound
from sparring.serve.guard import OPEN_MOST
from sparring.serve.ledger import Ledger, Report
from sparring.serve.scaling import OPEN
from sparring.serve.settings import Settings

log = logging.getLogger("sparring.serve")
ONGOING = (
    4 * OPEN_MOST
)  # requests that Serve gives a predictor, which itself refuses what is too much: liveness always gets through
DRAIN = 20.0  # seconds that requests in flight have to end when a replica is stopped
HEALTH = (
    2.0  # seconds between questions whether a replica is well; Serve replaces it after three that were not answered
)
HEALTH_TIMEOUT = 2.0  # seconds that it has for the answer
UP = 3.0  # seconds of more load after which another replica is started
ATTEMPTS = 2  # an attacker that dies with a question is replaced, and the question asked once more


def app(settings: Settings | dict[str, Any]) -> Application:
    """The application, from settings or, as ``serve run`` and ``serve deploy`` give them, from a YAML file's arguments.

    Raises:
        pydantic.ValidationError: an unknown or a wrong argument.
    """
    settings = Settings.model_validate(settings)
    attack = None
    if settings.demo:
        one_at_a_time = {"max_ongoing_requests": 1, "max_queued_requests": 4}
        attack = _deployment(Attack, "attack", ray_actor_options={"num_cpus": 0.25}, **one_at_a_time).bind(settings)
    counts = _deployment(Ledger, "ledger", ray_actor_options={"num_cpus": 0}).bind()
    return _deployment(
        ray_serve.ingress()(Predictor),
        "predictor",
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus},
        max_ongoing_requests=ONGOING,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=settings.limits.retry_after),
        **_replicas(settings),
    ).bind(settings, attack, counts)


def _deployment(kind: type, name: str, **options: Any) -> Any:
    health = {"health_check_period_s": HEALTH, "health_check_timeout_s": HEALTH_TIMEOUT}
    return ray_serve.deployment(name=name, graceful_shutdown_timeout_s=DRAIN, **health, **options)(kind)


def _replicas(settings: Settings) -> dict[str, Any]:
    if settings.max_predictors is None or settings.max_predictors == settings.predictors:
        return {"num_replicas": settings.predictors}
    bounds = {"min_replicas": settings.predictors, "max_replicas": settings.max_predictors}
    delays = {
        "upscale_delay_s": UP,
        "downscale_delay_s": settings.idle,
        "look_back_period_s": UP,
        "metrics_interval_s": UP / 3,
        "policy": {"policy_function": "sparring.serve.scaling:wanted"},
    }
    return {"autoscaling_config": {**bounds, **delays, "target_ongoing_requests": 2 * settings.batch}}


class Predictor:
    """One replica: takes requests, and answers them."""

    def __init__(self, settings: Settings, attack: Any, counts: Any) -> None:
        from sparring.serve.server import Server

        background.log_lines()
        self._settings = settings
        self._server = Server(settings, counts=_Counts(counts), attacks=None if attack is None else _Attacks(attack))

    def __serve_build_asgi_app__(self) -> Any:
        from sparring.serve import web

        return web.build(self._server, self._settings, names_requests=False)  # Serve does

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For :func:`sparring.serve.scaling.wanted`."""
        return {OPEN: self._server.load.mean()}


class Attack:
    """Attacks for the page."""

    def __init__(self, settings: Settings) -> None:
        from sparring.serve.attack import Attacker

        self._attacker = Attacker(settings)

    def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        """See ``Attacker.attack``."""
        try:
            return self._attacker.attack(name, version, x, **options)
        except (
            NotFound
        ) as error:  # a word among processes: what is raised there would be written to the log as a failure
            return {"unknown": str(error)}


class _Attacks:
    """``backend.Attacks`` by a handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            try:
                answer: dict[str, Any] = await self._handle.attack.remote(name, version, x, **options)
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


class _Counts:
    """``backend.Counts`` by a handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def note(self, report: Report) -> bool:
        return bool(await self._asked(self._handle.note, report))

    async def text(self) -> bytes:
        return bytes(await self._asked(self._handle.text))

    async def status(self) -> dict[str, Any]:
        return dict(await self._asked(self._handle.status))

    async def _asked(self, method: Any, *about: Any) -> Any:
        try:
            return await method.remote(*about)
        except (RayActorError, BackPressureError, DeploymentUnavailableError):
            raise Busy("the counts are being started again; come again later") from None
