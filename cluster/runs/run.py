"""A run on disk, as its user sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.cluster.errors import BrokenCheckpoint
from sparring.cluster.runs.folder import RunFolder


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    path: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One entry per agent and step."""
        return RunFolder(self.path).metrics()

    @property
    def best(self) -> dict[str, dict[str, Any]]:
        """Per agent, the step and value of its best held-out robust accuracy."""
        manifest = self._manifest()
        return dict(manifest["best"])

    @property
    def agents(self) -> dict[str, dict[str, float]]:
        """Per agent, accuracy on the held-out images at the last checkpoint: clean and robust, in [0, 1]."""
        return {a: {"clean": v["clean"], "robust": v["robust"]} for a, v in self._manifest()["validation"].items()}

    def _manifest(self) -> dict[str, Any]:
        checkpoints = RunFolder(self.path).checkpoints
        steps = checkpoints.committed()
        if not steps:
            raise BrokenCheckpoint(f"{self.path} has no committed checkpoint yet")
        return checkpoints.manifest(steps[-1])
