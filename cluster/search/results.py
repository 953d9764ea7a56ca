"""How the trials of a search stand, read from their folders."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.cluster.errors import UsageError
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.run import Run
from sparring.cluster.search.objective import reports


@dataclass(frozen=True)
class Searched:
    """A search on disk."""

    path: Path

    @property
    def best(self) -> Run:
        """The best trial's run; ``best.yaml`` beside it repeats it."""
        return Run(self.path / "best")

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Per trial: ``trial``, ``status`` (open, finished, stopped, failed), ``params``, and ``reports``, one per checkpoint."""
        return results_of(self.path)


def results_of(folder: Path) -> list[dict[str, Any]]:
    """Every trial that has begun, in order."""
    trials = sorted(p for p in (folder / "trials").iterdir() if p.name.isdigit())
    return [result(path) for path in trials if (path / "params.json").exists()]


def result(path: Path) -> dict[str, Any]:
    """How a trial stands: status (open, finished, stopped, failed), its values, every report.

    A stopped trial's reports end where it was stopped.
    """
    plan = json.loads((path.parent.parent / "search.json").read_text())
    known = json.loads((path / "result.json").read_text()) if (path / "result.json").exists() else {"status": "open"}
    made: list[dict[str, float]] = []
    if (path / "config.yaml").exists():
        with suppress(UsageError):  # an objective that the run never reports: nothing was
            made = reports(RunFolder(path), plan["objective"])
    if "step" in known:
        made = [r for r in made if r["step"] <= int(known["step"])]
    params = json.loads((path / "params.json").read_text())
    return {"trial": path.name, "params": params, "reports": made, **known}
