"""Counts and latencies of all replicas of the ingress, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Event = tuple[str, str, int, float]  # method, route, status, seconds
GONE = 3.0  # seconds without a word after which a replica is no more
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Ledger:
    """Sums what the replicas tell it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "sparring_requests", "Answered requests.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "sparring_request_seconds", "Seconds until the answer.", ["route"], buckets=BUCKETS, registry=self._registry
        )
        self._open: dict[
            str, tuple[int, bool, float]
        ] = {}  # per replica: open requests; whether it takes no more; when it said so
        self._draining = False
        self._now = Gauge("sparring_open_requests", "Requests that are not answered yet.", registry=self._registry)
        self._models = Gauge("sparring_model_version", "Newest served version.", ["model"], registry=self._registry)

    def note(
        self,
        events: Iterable[Event],
        newest: dict[str, int],
        *,
        replica: str = "",
        open_now: int = 0,
        stopping: bool = False,
    ) -> bool:
        """Add requests; whether the replica is to take no more.

        Args:
            newest: versions as a replica of the ingress knows them.
            open_now: requests that it has not answered yet.
            stopping: it takes no more already.
        """
        for method, route, status, seconds in events:
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(seconds)
        self._models.clear()  # of models that are gone
        for name, version in newest.items():
            self._models.labels(name).set(version)
        self._open[replica] = (open_now, stopping, time.monotonic())
        return self._draining

    def drain(self) -> bool:
        """Tell every replica to take no more requests; whether all know, and have answered those that they had."""
        self._draining = True
        now = time.monotonic()
        self._open = {r: o for r, o in self._open.items() if now - o[2] < GONE}
        return all(stopping and not count for count, stopping, _ in self._open.values())

    def text(self) -> bytes:
        """Prometheus' text format."""
        now = time.monotonic()
        self._now.set(sum(count for count, _, at in self._open.values() if now - at < GONE))
        return bytes(generate_latest(self._registry))
