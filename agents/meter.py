"""Where an agent's time went since its last step, and how many bytes it published."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparring.agents.state import peak_memory
from sparring.trainers.types import Metrics, Share


class Meter:
    """Counts from one step to the next."""

    def __init__(self) -> None:
        self._ended = time.perf_counter()
        self.forget()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of the block under a name."""
        began, start = time.time(), time.perf_counter()
        yield
        took = time.perf_counter() - start
        self._seconds[name] = self._seconds.get(name, 0.0) + took
        self._spans.append((name, began, took))

    def published(self, size: int) -> None:
        """Count bytes that travel."""
        self._published += size

    def metrics(self, values: dict[str, float], device: torch.device, shares: dict[str, Share]) -> Metrics:
        """Everything since the last step, with ``values``; what no verb took of the time was waiting."""
        now = time.perf_counter()
        idle = max(0.0, now - self._ended - sum(self._seconds.values()))
        seconds = {**self._seconds, "idle": idle}
        metrics = Metrics(values, self._published, seconds, peak_memory(device), tuple(self._spans), shares)
        self._ended = now
        self.forget()
        return metrics

    def forget(self) -> None:
        """Begin anew."""
        self._published, self._seconds = 0, dict[str, float]()
        self._spans: list[tuple[str, float, float]] = []
