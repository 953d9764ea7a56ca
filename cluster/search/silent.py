"""Trials whose process gives no sign of life: Tune hears nothing of one that is stopped or stuck, and would wait for it for good.

Every process that writes a run touches its run.lock. What counts is how often this search's own lock was touched meanwhile, so neither
clocks nor a disk that takes nothing for a while make a living trial look silent.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import ray

from sparring.cluster.machines import hosts

BEATS = 9  # of our own, one in ten seconds, after which a trial that gave none is ended
PULSE = 5.0  # seconds between two looks


class Silent:
    """Looks at the locks of a search's trials.

    Args:
        folder: of the search, whose lock this process holds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._looked = folder, 0.0
        self._own: int | None = None  # when our lock was touched last
        # By trial: its lock as last seen, and how often ours was touched since.
        self._known: dict[int, tuple[tuple[str, int] | None, int]] = {}

    def look(self, running: set[int]) -> None:
        """End the processes of trials that are silent; Tune begins them again."""
        if time.monotonic() - self._looked < PULSE:
            return
        self._looked = time.monotonic()
        lock = _touched(self._folder)
        own = None if lock is None else lock[1]
        beaten, self._own = own not in (None, self._own), own
        for index in running:
            seen = _touched(self._folder / "trials" / f"{index:03d}")
            known = self._known.get(index)
            if seen is None or known is None or known[0] != seen:
                self._known[index] = (seen, 0)
            elif beaten:
                self._known[index] = (seen, known[1] + 1)
                if known[1] + 1 >= BEATS:
                    _end(seen[0])
                    del self._known[index]


def _touched(run: Path) -> tuple[str, int] | None:
    """Who holds a run's lock, and when it was touched last; None without one."""
    path = run / "run.lock"
    try:
        return path.read_text(), path.stat().st_mtime_ns
    except OSError:
        return None


def _end(lock: str) -> None:
    """Kill the process that a lock names."""
    holder = json.loads(lock or "{}")
    nodes = [n for n in ray.nodes() if n["Alive"] and n["NodeManagerHostname"] == holder.get("host")]
    hosts.end([hosts.Place(holder["host"], node["NodeManagerAddress"], int(holder["pid"])) for node in nodes])
