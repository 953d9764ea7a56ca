"""The HTTP surface over models in this process: what the tests of paths, limits and errors need no Ray for."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from sparring.serve.attack import attack
from sparring.serve.local import Here
from sparring.serve.models import Models
from sparring.serve.server import Server
from sparring.serve.settings import Settings


class Attacks:
    """In a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self._models = Models(settings)
        self._models.poll()

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        number, served = self._models.get(name, version)
        return {"version": number, **await asyncio.to_thread(attack, served, x, **options)}


class Local(Server):
    """A service without processes of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, counts=Here(), attacks=Attacks(settings))

    def refresh(self) -> None:
        """Look for versions now."""
        self._models.poll()
