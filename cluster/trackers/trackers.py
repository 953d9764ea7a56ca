"""All trackers of one run.

Progress --metrics, text, results--> Trackers --> files here (tensorboard, csv)
                                              --> a process of its own each (wandb, mlflow), which may fail, hang or be killed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from sparring.cluster.config.tracking import APART
from sparring.cluster.trackers.apart import Apart
from sparring.cluster.trackers.table import Table
from sparring.cluster.trackers.tensorboard import TensorBoard

Status = Literal["finished", "stopped", "failed"]
FOLDER = "trackers"  # of a run: what trackers note of themselves


class Tracker(Protocol):
    """What is told of a run."""

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        """Figures of step ``t`` by name: ``loss/peer0``, ``held_out_robust/peer0``."""

    def text(self, t: int, name: str, text: str) -> None:
        """A sentence about step ``t``."""

    def rewind(self, t: int) -> None:
        """Step ``t`` and those behind it come again: the same after a fault, others after a collapse."""

    def artifact(self, path: Path) -> None:
        """A file of the run."""

    def results(self, config: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Final figures, with the settings that led to them."""

    def finish(self, status: Status) -> str | None:
        """Nothing more comes. What went wrong, where that was not said yet."""


class Trackers:
    """Tells every tracker the same.

    Args:
        names: see ``config/tracking.py``.
        folder: of the run.
        config: its settings, flat.
        first: step at which this process begins.
        say: told once of each tracker that fails.
        parent: folder of the search that the run is a trial of.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        *,
        first: int = 0,
        say: Callable[[str], None],
        parent: Path | None = None,
    ) -> None:
        self._say = say
        self._all: list[Tracker] = []
        for name in names:
            if name in APART:
                start = {"name": folder.name, "config": plain(config), "parent": str(parent) if parent else None}
                self._all.append(Apart(name, folder / FOLDER, start, say))
            elif name == "csv":
                self._all.append(Table(folder / "metrics.csv", first))
            else:
                self._all.append(TensorBoard(folder / "tensorboard", first))

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        for tracker in self._all:
            tracker.metrics(t, values)

    def text(self, t: int, name: str, text: str) -> None:
        for tracker in self._all:
            tracker.text(t, name, text)

    def rewind(self, t: int) -> None:
        for tracker in self._all:
            tracker.rewind(t)

    def artifact(self, path: Path) -> None:
        for tracker in self._all:
            tracker.artifact(path)

    def results(self, config: Mapping[str, Any], values: Mapping[str, float]) -> None:
        for tracker in self._all:
            tracker.results(plain(config), values)

    def finish(self, status: Status) -> None:
        for tracker in self._all:
            trouble = tracker.finish(status)
            if trouble:
                self._say(trouble)
        self._all = []


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as every tracker can hold them."""
    return {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in config.items()}
