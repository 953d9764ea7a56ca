"""The last five minutes of a service, in slices: requests, their times, what was answered. The page ``/dashboard`` shows them."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from sparring.serve.seen import Seen

SPAN = 5.0  # seconds of a slice
KEPT = 60  # slices
ASKING = ("POST", "gRPC")  # methods of requests that ask a model; others only look
EDGES = tuple(1e-4 * 1.25**i for i in range(62))  # seconds: 0.1 ms to 80 s; a percentile is right to an eighth


@dataclass(slots=True)
class Slice:
    """What happened in ``SPAN`` seconds."""

    number: int  # since the clock began
    requests: int = 0
    failed: int = 0  # answered with 500 or above
    times: Counter[int] = field(default_factory=Counter)  # by place among the edges
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    shadows: Counter[tuple[str, int, str]] = field(default_factory=Counter)

    def ms(self, share: float) -> float | None:
        """The time within which that share of the requests was answered, in milliseconds; None: there was none."""
        left = share * sum(self.times.values())
        for place in sorted(self.times):
            left -= self.times[place]
            if left <= 1e-9:
                low, high = EDGES[max(place - 1, 0)], EDGES[min(place, len(EDGES) - 1)]
                return 500 * (low + high)
        return None


class History:
    """Slices, the newest last."""

    def __init__(self) -> None:
        self._slices: deque[Slice] = deque(maxlen=KEPT)

    def _now(self) -> Slice:
        number = int(time.monotonic() / SPAN)
        if not self._slices or self._slices[-1].number < number:
            self._slices.append(Slice(number))
        return self._slices[-1]

    def answered(self, method: str, status: int, seconds: float) -> None:
        """A request; those that only look, as this page does, are not counted."""
        if method in ASKING:
            now = self._now()
            now.requests += 1
            now.failed += status >= 500
            now.times[bisect_right(EDGES, seconds)] += 1

    def saw(self, model: str, version: int, seen: Seen) -> None:
        """What a version has answered."""
        self._now().seen.setdefault((model, version), Seen()).join(seen)

    def shadowed(self, model: str, version: int, came: str, count: int) -> None:
        """Images that a shadow was asked about."""
        self._now().shadows[model, version, came] += count

    def told(self) -> dict[str, Any]:
        """Slices, also those in which nothing happened, oldest first; by model and version what was seen in all of them."""
        newest = self._now().number
        by_number = {s.number: s for s in self._slices if s.number > newest - KEPT}
        every = [by_number.get(n, Slice(n)) for n in range(min(by_number), newest + 1)]
        seen: dict[tuple[str, int], Seen] = {}
        shadows: Counter[tuple[str, int, str]] = Counter()
        for slice_ in every:
            shadows.update(slice_.shadows)
            for key, value in slice_.seen.items():
                seen.setdefault(key, Seen()).join(value)
        return {
            "slice_seconds": SPAN,
            "slices": [
                {"requests": s.requests, "failed": s.failed, "p50_ms": s.ms(0.5), "p99_ms": s.ms(0.99)} for s in every
            ],
            "seen": [{"model": m, "version": v, **s.told()} for (m, v), s in sorted(seen.items())],
            "shadows": [
                {"model": m, "version": v, "came": came, "images": n} for (m, v, came), n in sorted(shadows.items())
            ],
        }
