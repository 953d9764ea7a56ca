"""What the HTTP surface needs of whoever answers for the models: replicas of Ray Serve, or models in its own process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import numpy as np

from sparring.serve.guard import Watcher


class Busy(Exception):
    """More waits than may wait, or who was to answer is gone."""


class Backend(Watcher, Protocol):
    """Who answers for the models."""

    def models(self) -> dict[str, dict[str, Any]]:
        """Per served name ``versions`` (number -> card) and ``refused`` (number -> why), as known now."""

    async def predict(self, name: str, version: int | None, x: np.ndarray) -> dict[str, Any]:
        """See ``sparring.serve.models.Models.predict``, for one question.

        Raises:
            NotFound, Busy
        """

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        """See ``sparring.serve.attack.attack``; ``options``: eps, steps, seconds, label.

        Raises:
            NotFound, Busy
        """

    async def metrics(self) -> bytes:
        """Prometheus' text format, of all replicas."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """What goes on in the background while requests are answered."""
