"""How many cores this process may use, which is not how many the machine has."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")


def usable(groups: Path = GROUPS) -> int:
    """Cores of this process's affinity, at most what its cgroup's quota comes to (version 2, where the system tells it)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _quota(groups)
    return max(1, allowed if share is None else min(allowed, ceil(share)))


def _quota(groups: Path) -> float | None:
    """CPU time that may be used per time, of this process's group and those above it; None without a limit."""
    try:
        line = next(li for li in Path("/proc/self/cgroup").read_text().splitlines() if li.startswith("0::"))
    except (OSError, StopIteration):
        return None
    own = groups / line.removeprefix("0::").lstrip("/")
    limits = []
    for folder in (own, *own.parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            limits.append(int(quota) / int(period))
    return min(limits, default=None)
