"""How long a run takes from its command to its first step, and what with."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Startup:
    """Marks on the way; ``began`` is the moment of the command on the clock of ``time.monotonic``."""

    def __init__(self, began: float | None = None) -> None:
        self._began = self._last = time.monotonic() if began is None else began
        self._parts: list[str] = []

    @classmethod
    def of_process(cls) -> Startup:
        """From the start of this process where the system tells it (Linux), else from now."""
        try:
            ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc(5): starttime
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        except (OSError, AttributeError, ValueError):
            return cls()
        return cls(time.monotonic() - age)

    def mark(self, part: str) -> None:
        """Everything since the last mark belongs to ``part``."""
        now = time.monotonic()
        self._parts.append(f"{part} {now - self._last:.1f}")
        self._last = now

    def __str__(self) -> str:
        return f"first step {self._last - self._began:.1f} s after the start ({', '.join(self._parts)})"
