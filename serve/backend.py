"""What the HTTP surface needs of whoever answers for the models, and what that one needs of others."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import numpy as np

from sparring.serve.guard import Watcher
from sparring.serve.ledger import Report


class Busy(Exception):
    """More waits than may wait, or who was to answer is gone."""


class Backend(Watcher, Protocol):
    """Who answers for the models."""

    def models(self) -> dict[str, dict[str, Any]]:
        """Per served name ``versions`` (number -> card) and ``refused`` (number -> why), as known now."""

    async def predict(
        self, name: str, version: int | None, x: np.ndarray, *, canary: bool | None = None
    ) -> dict[str, Any]:
        """``version``; ``logits`` and ``probabilities`` [B, K] float32; of an ensemble ``disagreement`` [B], of a cascade ``large`` [B].

        Args:
            x: [B, C, H, W] float32 in [0, 1].
            canary: whether the canary is to answer, where there is one and no version is named; None: by its share.

        Raises:
            NotFound, Busy, NotFiniteError
        """

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        """See :meth:`Attacks.attack`.

        Raises:
            NotFound, Busy
        """

    async def metrics(self) -> bytes:
        """Prometheus' text format, of all replicas."""

    async def status(self) -> dict[str, Any]:
        """``Ledger.status``, of all replicas."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """What goes on in the background while requests are answered."""


class Attacks(Protocol):
    """Who attacks, for the page."""

    async def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        """``version``, and see ``sparring.serve.attack.attack``; ``options``: eps, steps, seconds, label.

        Raises:
            NotFound, Busy
        """


class Counts(Protocol):
    """Who sums what all processes of a service tell; see ``sparring.serve.ledger.Ledger``."""

    async def note(self, report: Report) -> bool:
        """Add what a process tells; whether it is to take no more."""

    async def text(self) -> bytes:
        """Prometheus' text format.

        Raises:
            Busy
        """

    async def status(self) -> dict[str, Any]:
        """``Ledger.status``.

        Raises:
            Busy
        """
