"""Whoever answers for models that live in its own process: the whole of a local service, and each replica on Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch

from sparring.serve import background
from sparring.serve.answers import Question, answer
from sparring.serve.backend import Attacks, Busy, Counts
from sparring.serve.batches import Batches
from sparring.serve.history import ASKING
from sparring.serve.ledger import Event, Report
from sparring.serve.models import Models
from sparring.serve.scaling import Load
from sparring.serve.seen import Seen
from sparring.serve.settings import Settings
from sparring.serve.shadows import Shadows

log = logging.getLogger("sparring.serve")
KEPT = 10_000  # counts that are kept while who sums them is away
QUICK = 0.002  # seconds of an answer that a lone request gets sooner here than from another thread
FLUSH = 0.25  # seconds between reports of them


class Server:
    """Ready once all that can be served were loaded and have answered.

    Args:
        attacks: None: nobody attacks.
    """

    def __init__(self, settings: Settings, *, counts: Counts, attacks: Attacks | None) -> None:
        torch.set_num_threads(settings.threads)
        self._settings, self._counts, self._attacks = settings, counts, attacks
        self._models = Models(settings)
        self._models.poll()
        self._batches: Batches[Question, dict[str, np.ndarray]] = Batches(
            answer, most=settings.batch, weight=lambda question: len(question.x)
        )
        self._waiting = 0
        self.load = Load()
        self._shadows = Shadows()
        self._seen: dict[tuple[str, int], Seen] = {}
        self._events: list[Event] = []
        self._open, self._stopping, self._me = 0, False, uuid.uuid4().hex
        background.every(settings.poll, self._models.poll)

    def models(self) -> dict[str, dict[str, Any]]:
        return self._models.described

    async def predict(
        self, name: str, version: int | None, x: np.ndarray, *, canary: bool | None = None
    ) -> dict[str, Any]:
        now = self._models.rollout(name)
        if version is None and now.canary is not None:
            chosen = random.random() < now.share if canary is None else canary
            version = now.canary if chosen else None
        found = await self._predict(name, version, x)
        if now.shadow is not None and now.shadow != found["version"]:
            self._shadows.ask(self._predict, name, now.shadow, x, found)
        self._seen.setdefault((name, found["version"]), Seen()).add(found)
        return found

    async def _predict(self, name: str, version: int | None, x: np.ndarray) -> dict[str, Any]:
        number, served = self._models.get(name, version, x.shape[1:])  # held until it has answered
        if self._waiting >= self._settings.limits.queue:
            raise Busy("too many requests wait; come again later")
        if self._open <= 1 and served.seconds < QUICK and len(x) == 1:
            return {"version": number, **_raised(answer([Question(name, number, served, x)])[0])}
        self._waiting += 1
        try:
            found = [await self._batches.ask(Question(name, number, served, part)) for part in self._parts(x)]
        finally:
            self._waiting -= 1
        if len(found) == 1:
            return {"version": number, **found[0]}
        return {"version": number, **{key: np.concatenate([f[key] for f in found]) for key in found[0]}}

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        """Asked one after the other, so that others come between the parts of a large request."""
        most = self._settings.batch
        return [x] if len(x) <= most else [x[i : i + most] for i in range(0, len(x), most)]

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        assert self._attacks is not None  # the path is there with --demo alone
        return await self._attacks.attack(name, version, x, **options)

    async def metrics(self) -> bytes:
        await self._flush()
        return await self._counts.text()

    async def status(self) -> dict[str, Any]:
        await self._flush()
        return await self._counts.status()

    def came(self, method: str) -> bool:
        self._open += 1
        if method in ASKING:  # who only looks needs no other replica
            self.load.changed(1)
        return not self._stopping

    def noted(self, method: str, route: str, status: int, seconds: float) -> None:
        self._open -= 1
        if method in ASKING:
            self.load.changed(-1)
        self._events.append((method, route, status, seconds))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._report())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(Exception):  # who sums may be gone already
                await self._flush()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            try:
                await self._flush()
            except Exception as error:
                log.warning("reporting counts: %s", type(error).__name__)

    async def _flush(self) -> None:
        events, self._events = self._events, []
        seen, self._seen = self._seen, {}
        shadows = self._shadows.taken()
        report = Report(
            process=self._me,
            events=events,
            answering={name: model["default"] for name, model in self.models().items() if model["versions"]},
            shadows=shadows,
            seen=seen,
            open_now=self._open,
            stopping=self._stopping,
        )
        try:
            self._stopping = await self._counts.note(report)
        except BaseException:  # also where whoever asked has no more time
            self._events = (events + self._events)[-KEPT:]
            self._shadows.give_back(shadows)
            for key, value in seen.items():
                self._seen.setdefault(key, Seen()).join(value)
            raise


def _raised(found: dict[str, np.ndarray] | Exception) -> dict[str, np.ndarray]:
    if isinstance(found, Exception):
        raise found
    return found
