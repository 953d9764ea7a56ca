"""A checkpoint on its way: agents write their files beside the next steps, and nobody waits for a disk.

save(t) ---> copies are taken; "written?" is asked behind the steps that were submitted since
not yet ---> asked again behind the next ones; waited for only where there are no steps left to do meanwhile
files and evaluate(t) ---> both are in: committed

Where checkpoints follow each other faster than the steps in flight, or than the disk, each waits for the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.cluster.team.team import Pending, Team
from sparring.cluster.training.job import Job
from sparring.trainers.types import HeldOut

LOOK = 2.0  # seconds between looks for nodes that are about to leave


@dataclass(slots=True)
class _Part:
    """What is known of a checkpoint."""

    t: int
    working: Path
    files: dict[str, dict[str, str]] | None = None
    accuracies: dict[str, HeldOut] | None = None


def by_network(result: Mapping[str, Mapping[str, HeldOut]]) -> dict[str, HeldOut]:
    """What agents said of their networks: ``{"student": {"": a, "swa": b}} -> {"student": a, "student.swa": b}``."""
    found = {}
    for role, networks in result.items():
        for average, held_out in networks.items():
            found[f"{role}.{average}" if average else role] = held_out
    return found


class Saver:
    """Brings one checkpoint at a time from its submission to its commit."""

    def __init__(self, job: Job, team: Team) -> None:
        self.job, self.config, self.team, self.checkpoints = job, job.config, team, job.folder.checkpoints
        self._part: _Part | None = None
        self._leaving, self._looked = set[str](), 0.0

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is begun and not committed."""
        return self._part is not None

    def node_leaves(self, say: Callable[[str], None]) -> bool:
        """Whether nodes with agents have begun to be drained since the last look: what they hold is to be saved now."""
        if time.monotonic() - self._looked < LOOK:
            return False
        self._looked = time.monotonic()
        leaving = self.team.leaving()
        new = [address for node, address in sorted(leaving.items()) if node not in self._leaving]
        self._leaving |= set(leaving)
        if new:
            say(f"node {', '.join(new)} is being drained: saving now")
        return bool(new)

    def begin(self, t: int, *, compare: bool) -> list[Pending]:
        """Ask for what step ``t - 1`` left behind and, unless it is not to be compared, for its accuracies."""
        self.job.check()
        self._part = _Part(t, self.checkpoints.working(t))
        saved = self.team.save(t, self._part.working / "agents")  # first: files are written during the evaluation
        compared = self.team.evaluate(t, self.config.measure) if compare else Pending("evaluate", t, {})
        return [saved, compared]

    def compared(self, result: dict[str, Any]) -> dict[str, HeldOut]:
        """Take in the accuracies of the checkpoint under way: by agent, or agent.network."""
        assert self._part is not None
        self._part.accuracies = by_network(result)
        return self._part.accuracies

    def written(self, result: dict[str, Any], *, wait: bool) -> Pending | None:
        """Take in what agents say of the files of the checkpoint under way, or that they have their copies.

        Args:
            wait: no step is under way; whoever is asked next may wait for the disk.

        Returns:
            The next question; None when all is on disk.
        """
        assert self._part is not None
        if not result or None in result.values():
            return self.team.written(self._part.t, wait=wait)
        self._part.files = result
        return None

    def commit(self, recorded: int) -> tuple[int, dict[str, HeldOut]] | None:
        """Commit what is whole: its step and accuracies; None while something is missing.

        Args:
            recorded: steps whose metrics are written; a run that went on from a later one would never have them.
        """
        part = self._part
        if part is None or part.files is None or part.accuracies is None or part.t > recorded:
            return None
        self.job.check()
        data = next(iter(self.team.describe().values())).data_sha256
        origin, metric = {"configuration": self.config.sha256, "data": data}, self.config.method.METRIC
        self.checkpoints.commit(part.t, part.working, part.files, part.accuracies, origin, metric=metric)
        self.checkpoints.prune(self.config.checkpoint.keep)
        self._part = None
        return part.t, part.accuracies

    def forget(self) -> None:
        """The agents go back to an earlier step; what was on its way is never committed."""
        self._part = None
