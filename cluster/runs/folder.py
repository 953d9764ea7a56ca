"""A run's folder: made once, never overwritten, locked while a process writes it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config import run_config
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import BrokenCheckpoint, Exists, UsageError, sentence
from sparring.cluster.runs import lock, places, records
from sparring.cluster.runs.checkpoints import Checkpoints
from sparring.cluster.terminal import relative
from sparring.trainers import code, keeping
from sparring.trainers.types import HeldOut

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts
SHOWN = 40  # characters of a name that is refused
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class RunFolder:
    """The folder ``runs/NAME`` and what is in it."""

    path: Path

    def __str__(self) -> str:
        """The path as a person types it here: relative when below the working directory."""
        return relative(self.path)

    @classmethod
    def create(cls, runs_dir: Path, name: str | None, config: RunConfig) -> RunFolder:
        """A new folder with config.yaml; without a name the next free ``<recipe>-<number>``, or ``<method>-<data>-<number>``.

        Raises:
            Exists: a run of this name is there.
            UsageError: the name cannot be a folder's.
        """
        if name is not None and not NAME.fullmatch(name):
            long = f"{name[:SHOWN]!r}... ({len(name)} characters; 128 at most)" if len(name) > 128 else repr(name)
            raise UsageError(
                f"--name {long} is not allowed; use letters, digits, '.', '_' and '-', starting with one of the first two"
            )
        refuse_lost(runs_dir)
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            if not os.access(runs_dir, os.W_OK):
                why = errno.EROFS if os.statvfs(runs_dir).f_flag & os.ST_RDONLY else errno.EACCES
                raise OSError(why, os.strerror(why))
        except OSError as error:
            raise UsageError(
                f"--runs-dir {runs_dir} cannot be written ({error.strerror}); choose another folder: --runs-dir DIR"
            ) from error
        path = runs_dir / name if name else _next(runs_dir, config.label)
        try:
            path.mkdir()
        except FileExistsError:
            if name is None:  # another process took the number at the same moment
                return cls.create(runs_dir, None, config)
            raise Exists(
                f"run {path} exists and is never overwritten. Choose another --name, add --resume-if-exists to continue it, "
                f"or run: sparring resume {path}"
            ) from None
        folder = cls(path.resolve())
        try:
            folder.keep(config.codes)
            write(path / "config.yaml", run_config.dump(config).encode())
        except OSError:
            shutil.rmtree(path, ignore_errors=True)  # the name is free again
            raise
        return folder

    def keep(self, codes: Sequence[code.Code]) -> None:
        """Keep copies of the user's files that the run is made of in ``code/``."""
        keeping.keep(codes, self.path)

    def changed_code(self) -> list[str]:
        """One sentence per file of a user's that has changed since the run keeps it.

        Raises:
            BrokenCheckpoint: a kept copy is missing or altered.
        """
        try:
            return keeping.changed(keeping.know(self.path))
        except ValueError as error:
            raise BrokenCheckpoint(str(error)) from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run, by its folder or by its name in ``runs/``.

        Raises:
            UsageError: not a run's folder, or a URI.
            BrokenCheckpoint: a kept copy of a user's file is missing or altered.
        """
        if not (path / "config.yaml").is_file():
            if (Path("runs") / path / "config.yaml").is_file():
                return cls((Path("runs") / path).resolve())
            places.refuse("", path)
            near = sorted(p.parent.name for p in path.parent.glob("*/config.yaml"))
            known = f"; runs in {path.parent}: {', '.join(near)}" if near else ""
            raise UsageError(f"{path} is not a run (it has no config.yaml){known}. List runs with: sparring runs")
        return cls(path.resolve())

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return run_config.load(self.path / "config.yaml", of_run=True)

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def environment(self) -> dict[str, Any]:
        """env.json; errors as :func:`records.environment`."""
        return records.environment(self.path)

    def write_env(self, facts: dict[str, Any]) -> None:
        """env.json: versions, hardware, placement; the command that began the run, and those that went on with it."""
        before = self.environment
        if before:
            later = before.get("continued_by", [])
            if facts["command"] not in (before["command"], *later):
                later = [*later, facts["command"]]
            facts = {**facts, "command": before["command"], "continued_by": later}
            facts |= {"images": before["images"]} if "images" in before else {}  # those of the start
        write(self.path / records.ENV, to_json(facts))

    def write_ended(self, error: BaseException, *, step: int) -> None:
        """Note in env.json why the run stopped, when, and after how many steps; gone once it is continued."""
        before = self.environment
        if before:
            ended = {"what": sentence(error), "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "step": step}
            write(self.path / records.ENV, to_json(before | {"ended": ended}))

    @property
    def images(self) -> Mapping[str, str] | None:
        """Hashes of the images with which the run began; None before it has, and of a run of version 0.1."""
        return self.environment.get("images")

    @property
    def total_steps(self) -> int | None:
        """Length of the run; None before it has begun."""
        return next((int(a["total_steps"]) for a in self.environment.get("agents", {}).values()), None)

    def changed_versions(self, facts: dict[str, Any]) -> list[str]:
        """What has changed since env.json was written and ends the promise of identical bytes."""
        before = self.environment or facts
        lines = [
            f"{name}: {before['versions'].get(name)} -> {version}: bytes may differ from an undisturbed run"
            for name, version in facts["versions"].items()
            if before["versions"].get(name) != version
        ]
        if before["processor"] != facts["processor"]:
            lines.append(f"processor: {before['processor']} -> {facts['processor']}: bytes may differ")
        return lines

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl: one per agent and step. A last line that a crash cut off is left out."""
        return self.lines("metrics.jsonl")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, validation.jsonl (one per agent and checkpoint) or alarms.jsonl.

        Raises:
            BrokenCheckpoint: one cannot be read.
        """
        return records.lines(self.path, name)

    def complete(self, t: int) -> None:
        """Write what a stop right behind the commit of step ``t`` left out: best.json, last.json, lines of validation.jsonl."""
        seen = {a: asdict(HeldOut(**v)) for a, v in self.checkpoints.manifest(t)["validation"].items()}
        records.complete(self.path, "validation.jsonl", [{"t": t, "agent": a, **v} for a, v in seen.items()])
        self.checkpoints.publish(t)

    def kept(self) -> tuple[str, str]:
        """What is not lost when its disk is full, and the command that goes on."""
        if not self.path.exists():
            return "Nothing of the run had begun", "the same command again"
        steps = self.checkpoints.committed()
        safe = f"The checkpoint of step {steps[-1]} is safe" if steps else "No checkpoint was committed yet"
        return safe, f"sparring resume {self}"

    def rewind_metrics(self, t: int) -> list[str]:
        """Forget what step ``t`` and later left: those steps are about to run again. What could not be read is said."""
        said = []
        for name, last in (("metrics.jsonl", t - 1), ("validation.jsonl", t), ("alarms.jsonl", t)):
            said += records.rewind(self.path, name, lambda line, last=last: bool(line["t"] <= last))  # type: ignore[misc]
        return said

    def locked(self) -> AbstractContextManager[lock.Held]:
        """Hold run.lock; errors as :func:`lock.locked`."""
        return lock.locked(self.path)


def _next(runs_dir: Path, recipe: str) -> Path:
    pattern = re.compile(re.escape(recipe) + r"-(\d+)")
    numbers = [int(m[1]) for p in runs_dir.iterdir() if (m := pattern.fullmatch(p.name))]
    return runs_dir / f"{recipe}-{max(numbers, default=0) + 1}"


def refuse_lost(runs_dir: Path) -> None:
    """Refuse what is no folder of a disk, and a folder that does not outlive a submitted job.

    Raises:
        UsageError: it is not, or does not.
    """
    places.refuse("--runs-dir ", runs_dir)
    if SUBMITTED in os.environ and not runs_dir.is_absolute():
        raise UsageError(
            f"--runs-dir {runs_dir} is relative: under 'ray job submit' it lies in the job's folder, which Ray erases. Give an "
            "absolute path that every node sees"
        )
