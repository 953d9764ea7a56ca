"""How many replicas there should be: as many as the requests that are open need, on average over the last seconds.

Ray Serve 2.60 looks at a replica now and then and counts what is open at that moment: requests of milliseconds are hardly ever seen, and a
replica that answers thirty of them a second is given back as idle. Here a replica tells the mean over all of the time.
"""

from __future__ import annotations

import time
from typing import Any

OPEN = "open"  # the figure that a replica tells


class Load:
    """Open requests of one process, averaged over time."""

    def __init__(self) -> None:
        self._open, self._sum = 0, 0.0
        self._changed = self._told = time.monotonic()

    def changed(self, by: int) -> None:
        """So many more are open."""
        self._count(time.monotonic())
        self._open += by

    def mean(self) -> float:
        """Since it was asked last; above 0 if there was any request at all."""
        now = time.monotonic()
        self._count(now)
        found = self._sum / max(now - self._told, 1e-9)
        self._sum, self._told = 0.0, now
        return found

    def _count(self, now: float) -> None:
        self._sum += self._open * (now - self._changed)
        self._changed = now


def wanted(context: Any) -> tuple[float, dict[str, Any]]:
    """Ray Serve's policy (``ray.serve.config.AutoscalingContext``): replicas, before its bounds and delays, and no state."""
    told = (context.aggregated_metrics or {}).get(OPEN, {})
    return sum(told.values()) / context.config.target_ongoing_requests, {}
