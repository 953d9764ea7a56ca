"""What replicas do beside requests: look for new versions, write lines of log."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable


def every(seconds: float, work: Callable[[], None]) -> None:
    """Call ``work`` for ever in a thread that ends with the process."""
    pause = threading.Event()

    def loop() -> None:
        while not pause.wait(seconds):
            try:
                work()
            except Exception:  # a folder that cannot be read now may be read later; what is served goes on
                logging.getLogger("sparring.serve").exception("looking for new versions")

    threading.Thread(target=loop, daemon=True).start()


def log_lines() -> None:
    """The service's own lines on standard error, as they are."""
    log = logging.getLogger("sparring.serve")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False
