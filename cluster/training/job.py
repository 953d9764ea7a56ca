"""One run as the process that carries it out sees it; gathered once, before there is any agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparring.agents.spec import Facts
from sparring.cluster.config.environment import environment
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.models import origins
from sparring.cluster.models.teachers import Teacher
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.lock import Held
from sparring.cluster.training.startup import Startup
from sparring.trainers.types import HeldOut


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a run is carried out; nothing here changes a number."""

    quiet: bool = False  # nothing on stderr
    startup: Startup = field(default_factory=Startup)  # since when the first step has been waited for
    reported: Callable[[int, Mapping[str, HeldOut]], None] | None = None  # told every checkpoint; may stop the run
    parent: Path | None = None  # folder of the search that the run is a trial of
    group: Any = None  # a placement group of somebody else's, whose bundles after the first are for the agents


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be carried out: its folder, locked by this process, its configuration, and where it stands."""

    folder: RunFolder
    config: RunConfig
    how: Circumstances
    first: int | None  # step of the checkpoint that it goes on from; None for fresh agents
    damaged: tuple[str, ...]  # newer checkpoints that cannot be read, and why
    teachers: Mapping[str, Teacher]
    images: Mapping[str, str] = field(default_factory=dict)  # hashes of the images, as env.json notes them
    left_out: tuple[str, ...] = ()  # records that cannot be read, as they are said
    held: Held | None = None  # the folder's lock, asked before what counts is written

    def check(self) -> None:
        """Refuse to write where the run no longer is; errors as :meth:`Held.check`."""
        if self.held is not None:
            self.held.check()

    def environment(self, agents: dict[str, Facts]) -> dict[str, Any]:
        """What env.json says with these agents."""
        teachers = {name: asdict(teacher) for name, teacher in self.teachers.items()}
        known = {"teachers": teachers, "images": dict(self.images), "origins": origins.of_run(self.config)}
        return environment(self.config, agents) | known
