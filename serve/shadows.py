"""Versions that are asked beside the one that answers: after its answer, never instead of it, and only counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

log = logging.getLogger("sparring.serve")
MOST = 8  # that wait at a time; what comes beyond is left out and counted, since a shadow may not slow an answer down
Counted: TypeAlias = tuple[
    str, int, str
]  # model, version of the shadow, what came of it: agrees, disagrees, left out, failed
Ask: TypeAlias = Callable[[str, int | None, np.ndarray], Awaitable[dict[str, Any]]]


class Shadows:
    """Questions to shadows; no request waits for them, and none that ends takes them with it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._counts: Counter[Counted] = Counter()

    def ask(self, ask: Ask, name: str, version: int, x: np.ndarray, answered: dict[str, Any]) -> None:
        """Compare a shadow's classes with those that were answered, image by image."""
        if len(self._running) >= MOST:
            self._counts[name, version, "left out"] += len(x)
            return
        task = asyncio.get_running_loop().create_task(self._compare(ask, name, version, x, answered))
        self._running.add(task)  # the loop itself holds a task by a weak reference only
        task.add_done_callback(self._running.discard)

    async def _compare(self, ask: Ask, name: str, version: int, x: np.ndarray, answered: dict[str, Any]) -> None:
        try:
            found = await ask(name, version, x)
        except Exception as error:  # whatever it was, nobody waits for it
            log.warning("shadow %s version %d: %s", name, version, error)
            self._counts[name, version, "failed"] += len(x)
            return
        same = int((found["logits"].argmax(1) == answered["logits"].argmax(1)).sum())
        self._counts[name, version, "agrees"] += same
        self._counts[name, version, "disagrees"] += len(x) - same

    def taken(self) -> dict[Counted, int]:
        """What was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def give_back(self, counts: Mapping[Counted, int]) -> None:
        """What was taken and could not be told."""
        self._counts.update(counts)
