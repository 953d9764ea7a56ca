"""metrics.csv: a line per figure, for pandas, R, a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.trainers.files import naming

HEAD = ("step", "name", "value")


class Table:
    """See ``trackers.Tracker``.

    Args:
        file: step, name, value; made, or gone on with.
        first: lines of this step and later ones go.
    """

    def __init__(self, file: Path, first: int) -> None:
        self._file = file
        self._begin(first)

    def _begin(self, first: int) -> None:
        """Keep whole lines of steps before; a last one may have been cut off."""
        kept: list[list[str]] = []
        if self._file.exists():
            with self._file.open(newline="") as old:
                rows = list(csv.reader(old))[1:]
            kept = [row for row in rows if len(row) == len(HEAD) and row[0].isdigit() and int(row[0]) < first]
        working = self._file.with_suffix(".tmp")
        with working.open("w", newline="") as new:
            csv.writer(new).writerows([HEAD, *kept])
        working.replace(self._file)
        self._open = self._file.open("a", newline="")
        self._writer = csv.writer(self._open)

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        with naming(self._file):
            self._writer.writerows((t, name, repr(float(value))) for name, value in values.items())
            self._open.flush()

    def text(self, t: int, name: str, text: str) -> None:
        """log.txt has it."""

    def rewind(self, t: int) -> None:
        self._open.close()
        self._begin(t)

    def artifact(self, path: Path) -> None:
        """The files lie beside it."""

    def results(self, config: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """config.yaml and the last lines have it."""

    def finish(self, status: str) -> None:
        self._open.close()
