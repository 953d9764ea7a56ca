"""What replicas do beside requests: look for new versions, write lines of log."""

from __future__ import annotations

import json
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


_lines = False  # whether lines of requests are wanted


class Line(logging.Formatter):
    """Every record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if text.startswith("{"):
            return text
        line = {"level": record.levelname.lower(), "message": text}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def written(line: str) -> None:
    """Write the line of a request. Not a record of logging, which costs as much as a small network's answer."""
    if _lines:
        sys.stderr.write(line + "\n")


def log_lines() -> None:
    """The service's own lines on standard error, as they are."""
    global _lines
    _lines = True
    log = logging.getLogger("sparring.serve")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Line())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
