"""Ctrl-C, SIGTERM and SIGUSR1: the first one asks, the second one ends at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # USR1: what Slurm sends before the time is up


class StopSignal:
    """Inside ``with StopSignal() as stop``, ``stop.requested`` turns true at the first signal."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._previous = self.install()
        return self

    def install(self) -> dict[int, Any]:
        """Take the signals (again, where something else took them meanwhile); the handlers that had them."""
        if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
            return {}
        return {s: signal.signal(s, self._handle) for s in SIGNALS}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print(
            f"{signal.Signals(number).name}: finishing this step and saving; once more to stop at once", file=sys.stderr
        )
