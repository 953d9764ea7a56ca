"""The process in which a tracker's library runs: lines of JSON on standard input -> the library."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sparring.trainers.files import write

KEEP = 1.0  # seconds between notes of how far it has been told


class Told:
    """How far every figure has been told, kept on disk: a run that goes on tells no step twice."""

    def __init__(self, file: Path) -> None:
        self._file = file
        known = json.loads(file.read_bytes()) if file.exists() else {}
        self.id: str | None = known.get("id")
        self._until: dict[str, int] = known.get("until", {})
        self._kept = 0.0

    def new(self, t: int, values: Mapping[str, float]) -> dict[str, float]:
        """Those of step ``t`` that have not been told."""
        return {name: value for name, value in values.items() if t > self._until.get(name, -1)}

    def note(self, t: int, values: Iterable[str]) -> None:
        self._until |= dict.fromkeys(values, t)
        if time.monotonic() - self._kept > KEEP:
            self.keep()

    def keep(self) -> None:
        self._kept = time.monotonic()
        write(self._file, json.dumps({"id": self.id, "until": self._until}).encode())


def run(lines: Iterable[str], folder: Path, name: str, made: Callable[..., Any]) -> None:
    """Do what the lines say.

    Args:
        made: the tracker, from folder, id of its run (None: a new one), name, settings and parent.
    """
    told = Told(folder / f"{name}.json")
    tracker: Any = None
    ended = False
    for line in lines:
        [(what, about)] = json.loads(line).items()
        if what == "start":
            tracker = made(folder, told.id, **about)
            told.id = tracker.id
            told.keep()
        elif what == "metrics":
            t, values = about
            new = told.new(t, values)
            if new:
                tracker.metrics(t, new)
                told.note(t, new)
        elif what == "text":
            tracker.text(*about)
        elif what == "artifact":
            if Path(about).is_file():  # a run that ended early has not written all
                tracker.artifact(Path(about))
        elif what == "results":
            tracker.results(about)
        elif what == "finish":
            tracker.finish(about)
            ended = True
    if tracker is not None and not ended:  # whoever told it was killed
        tracker.finish("failed")
    told.keep()


def main() -> None:
    """Its last two arguments are a tracker's name, and the folder for what it notes."""
    name, folder = sys.argv[-2], Path(sys.argv[-1])
    run(sys.stdin, folder, name, import_module(f"sparring.cluster.trackers.to_{name}").made)
