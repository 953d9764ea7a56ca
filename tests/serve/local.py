"""The HTTP surface over models in this process: what the tests of paths, limits and errors need no Ray for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from sparring.serve.attack import attack
from sparring.serve.catalogue import NotFound
from sparring.serve.ledger import Ledger
from sparring.serve.models import Models, Unknown
from sparring.serve.settings import Settings


class Local:
    """A backend whose models live here."""

    def __init__(self, settings: Settings) -> None:
        self.known, self._ledger = Models(settings), Ledger()
        self.known.poll()

    def models(self) -> dict[str, dict[str, Any]]:
        return self.known.describe()

    async def predict(self, name: str, version: int | None, x: np.ndarray) -> dict[str, Any]:
        answer = (await asyncio.to_thread(self.known.predict, [(name, version, x)]))[0]
        if isinstance(answer, Unknown):
            raise NotFound(str(answer))
        return answer

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        number, served = self.known.get(name, version)
        return {"version": number, **await asyncio.to_thread(attack, served, x, **options)}

    async def metrics(self) -> bytes:
        return self._ledger.text()

    def came(self) -> bool:
        return True

    def noted(self, method: str, route: str, status: int, seconds: float) -> None:
        self._ledger.note([(method, route, status, seconds)], {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield
