"""Counts and latencies of all processes of a service, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sparring.serve.history import History
from sparring.serve.seen import Seen

Event: TypeAlias = tuple[str, str, int, float]  # method, route, status, seconds
GONE = 3.0  # seconds without a word after which a process is no more
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class Report:
    """What a process tells now and then.

    Args:
        process: which one.
        events: requests that it has answered since the last time.
        answering: by model the version that answers where a request names none, as it knows them.
        shadows: images by model, version of a shadow, and what came of it.
        seen: what was answered, by model and version.
        open_now: requests that it has not answered yet.
        stopping: it takes no more already.
    """

    process: str = ""
    events: Sequence[Event] = ()
    answering: Mapping[str, int] = field(default_factory=dict)
    shadows: Mapping[tuple[str, int, str], int] = field(default_factory=dict)
    seen: Mapping[tuple[str, int], Seen] = field(default_factory=dict)
    open_now: int = 0
    stopping: bool = False


class Ledger:
    """Sums what the processes tell it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Answered requests.", "method", "route", "status")
        self._seconds = Histogram(
            "sparring_request_seconds", "Seconds until the answer.", ["route"], buckets=BUCKETS, registry=self._registry
        )
        self._now = Gauge("sparring_open_requests", "Requests that are not answered yet.", registry=self._registry)
        self._shadows = self._counter(
            "shadow_images",
            "Images that a shadow was asked about: its class agrees, disagrees, it was left out under load, or failed.",
            *("model", "version", "came"),
        )
        self._images = self._counter("images", "Images by the class that was answered.", "model", "version", "class")
        self._confidence = self._counter(
            "confidence_sum", "Probabilities of the classes that were answered.", "model", "version"
        )
        self._disagreement = self._counter(
            "disagreement_sum", "Divergence of an ensemble's members, 0 to 1 each.", "model", "version"
        )
        self._large = self._counter(
            "cascade_large_images", "Images that the large network of a cascade has answered.", "model", "version"
        )
        self._models = Gauge(
            "sparring_model_version",
            "Version that answers where a request names none.",
            ["model"],
            registry=self._registry,
        )
        self._open: dict[str, tuple[int, bool, float]] = {}  # open requests; whether it takes no more; when it said so
        self._draining = False
        self._history = History()

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"sparring_{name}", about, labels, registry=self._registry)

    def note(self, report: Report) -> bool:
        """Add it; whether the process is to take no more."""
        for method, route, status, seconds in report.events:
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(seconds)
            self._history.answered(method, status, seconds)
        for (model, number, came), count in report.shadows.items():
            self._shadows.labels(model, str(number), came).inc(count)
            self._history.shadowed(model, number, came, count)
        for (model, number), seen in report.seen.items():
            version = str(number)
            self._history.saw(model, number, seen)
            self._confidence.labels(model, version).inc(seen.confidence)
            if seen.disagreement is not None:
                self._disagreement.labels(model, version).inc(seen.disagreement)
            if seen.large is not None:
                self._large.labels(model, version).inc(seen.large)
            for index, count in seen.classes.items():
                self._images.labels(model, version, str(index)).inc(count)
        self._models.clear()  # of models that are gone
        for model, number in report.answering.items():
            self._models.labels(model).set(number)
        self._open[report.process] = (report.open_now, report.stopping, time.monotonic())
        return self._draining

    def drain(self) -> bool:
        """Tell every process to take no more requests; whether all know, and have answered those that they had."""
        self._draining = True
        return all(stopping and not count for count, stopping, _ in self._there())

    def status(self) -> dict[str, Any]:
        """What the processes do now, and what happened in the last minutes (:class:`History`)."""
        there = self._there()
        return {"processes": len(there), "open": sum(count for count, _, _ in there), **self._history.told()}

    def _there(self) -> list[tuple[int, bool, float]]:
        """What the processes that are not gone have told last."""
        now = time.monotonic()
        self._open = {process: told for process, told in self._open.items() if now - told[2] < GONE}
        return list(self._open.values())

    def text(self) -> bytes:
        """Prometheus' text format."""
        self._now.set(sum(count for count, _, _ in self._there()))
        return bytes(generate_latest(self._registry))
