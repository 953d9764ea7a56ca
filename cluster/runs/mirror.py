"""A copy of a run elsewhere, for machines whose disk goes with them: any place that ``pyarrow.fs`` knows (file, s3, gs, hdfs).

    commit of step t --push--> URI/NAME/{config.yaml, code/, env.json, *.jsonl, checkpoints/step-t/..., COMMITTED last}
    train --resume-if-exists on another machine --pull--> the newest committed step --> continues as resume does

Tried with local folders and with S3 as moto's server speaks it; other file systems are pyarrow's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from pyarrow import fs

from sparring.cluster.config import run_config
from sparring.cluster.errors import Exists
from sparring.cluster.runs import places
from sparring.cluster.runs.checkpoints import number_of
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers import keeping

RECORDS = ("config.yaml", "env.json", "metrics.jsonl", "validation.jsonl", "alarms.jsonl", "log.txt")
COMMITTED = "COMMITTED"
STEP = re.compile(rf"(step-\d+)/{COMMITTED}")


def begin(uri: str | None, folder: RunFolder) -> None:
    """Refuse to copy a new run over another one's copy; the new run's empty folder goes.

    Raises:
        Exists: there is one of this name.
        Infrastructure: the place does not answer.
    """
    if uri is not None:
        try:
            Mirror(uri, folder.path.name).refuse_another(None)
        except Exception:
            shutil.rmtree(folder.path)
            raise


def brought(uri: str | None, run: Path) -> None:
    """Bring a run that only the mirror has, before anything is compared with it."""
    if uri is not None and not run.exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        Mirror(uri, run.name).pull(run)


def found(uri: str | None, run: Path) -> bool:
    """Whether a run to go on with is here, brought from the mirror where only that has it.

    Raises:
        Exists: the mirror holds another run of this name, or is ahead of this one.
        Infrastructure: the place does not answer.
    """
    brought(uri, run)
    if not (run / "config.yaml").exists():
        return False
    if uri is not None:
        Mirror(uri, run.name).refuse_another(RunFolder.open(run))
    return True


def finish(uri: str | None, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Copy what a complete run has and its mirror lacks: no checkpoint follows, and whoever committed the last one may have been killed.

    Args:
        say: told what to do where the place takes nothing.
    """
    if uri is not None:
        mirror = Mirror(uri, folder.path.name)
        mirror.push(folder, lambda text: None)
        if mirror.failed:
            say(
                f"the mirror {mirror.base} lacks the last checkpoint ({mirror.failed}); once it takes it: sparring resume {folder}"
            )


class Mirror:
    """The folder ``URI/NAME``.

    Args:
        uri: where mirrors live: ``s3://bucket/runs``, ``file:///mnt/runs``.
        name: the run's.

    Attributes:
        base: the folder, in its file system.
        failed: why the last copying did not succeed; empty where it did.

    Raises:
        UsageError: no file system of that kind.
    """

    def __init__(self, uri: str, name: str) -> None:
        place = places.opened(uri, what="--mirror ")
        self._there, self.base, self._uri = place.there, place.at(name), place.said(name)
        self._here, self.failed = fs.LocalFileSystem(), ""

    def refuse_another(self, folder: RunFolder | None) -> None:
        """Never overwrite a copy that is not this run's, or that is ahead of it.

        Args:
            folder: the run that will be copied; None for a new one.

        Raises:
            Exists: says how to go on from the copy.
            Infrastructure: the place does not answer.
        """
        with places.asking(self._uri):
            steps = self._steps()
        if not steps:
            return
        again = "choose another --name, or go on from it: repeat the command with --resume-if-exists"
        if folder is None:
            raise Exists(f"the mirror {self.base} holds a run already, until {steps[-1]}; {again}")
        here = folder.checkpoints.committed()
        with places.asking(self._uri), self._there.open_input_stream(f"{self.base}/config.yaml") as file:
            copied = yaml.safe_load(file.read())
        keeping.look_through(copied, folder.path)
        if run_config.RunConfig.from_dict(copied).sha256 != folder.config.sha256:
            raise Exists(f"the mirror {self.base} holds a run with other settings; choose another --name or --mirror")
        if not here or here[-1] < number_of(steps[-1]):
            raise Exists(
                f"the mirror {self.base} is ahead of {folder}: it has {steps[-1]}. Move {folder} away, and repeat the command "
                "with --resume-if-exists to go on from the mirror"
            )

    def push(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        """Copy the records and every committed checkpoint that is not there yet; steps that the run dropped go.

        Args:
            say: told when the place cannot be written: training goes on, and the next checkpoint tries again. It is told once,
                and again when everything is there.
        """
        try:
            self._push(folder)
        except OSError as error:
            if not self.failed:
                say(
                    f"the mirror {self.base} could not be written ({places.line(error)}); once more at the next checkpoint"
                )
            self.failed = places.line(error)
            return
        if self.failed:
            say(f"the mirror {self.base} has everything again")
        self.failed = ""

    def _push(self, folder: RunFolder) -> None:
        there = set(self._steps())
        steps = [folder.checkpoints.path(t) for t in folder.checkpoints.committed()]
        for step in [s for s in steps if s.name not in there]:
            files = sorted(p for p in step.rglob("*") if p.is_file() and p.name != COMMITTED)
            code = sorted(p for p in (folder.path / "code").rglob("*") if p.is_file())
            told = sorted((folder.path / "trackers").glob("*.json"))  # which runs of trackers' this is
            for path in [*files, *code, *told, *(folder.path / name for name in RECORDS), step / COMMITTED]:
                if path.exists():
                    to = f"{self.base}/{path.relative_to(folder.path)}"
                    self._there.create_dir(to.rpartition("/")[0])
                    self._copy(str(path), self._here, f"{to}.part", self._there)
                    self._there.move(f"{to}.part", to)
        kept = {step.name for step in steps}
        for old in there:
            if old not in kept:
                self._there.delete_file(f"{self.base}/checkpoints/{old}/{COMMITTED}")
                self._there.delete_dir(f"{self.base}/checkpoints/{old}")

    def pull(self, run: Path) -> bool:
        """Bring the run here, with all its committed steps; False when nothing was committed there.

        Raises:
            Infrastructure: the copy cannot be read.
        """
        with places.asking(self._uri):
            return self._pull(run)

    def _pull(self, run: Path) -> bool:
        steps = self._steps()
        if not steps:
            return False
        selector = fs.FileSelector(self.base, recursive=True)
        wanted = (f"{self.base}/code/", f"{self.base}/trackers/", *(f"{self.base}/checkpoints/{s}/" for s in steps))
        working = run.with_name(f".{run.name}.pull")
        shutil.rmtree(working, ignore_errors=True)  # of an attempt that was killed
        try:
            for info in self._there.get_file_info(selector):
                inside = info.path.removeprefix(f"{self.base}/")
                if (
                    info.is_file
                    and (info.path.startswith(wanted) or "/" not in inside)
                    and not inside.endswith(".part")
                ):
                    (working / inside).parent.mkdir(parents=True, exist_ok=True)
                    self._copy(info.path, self._there, str(working / inside), self._here)
        except OSError:
            shutil.rmtree(working, ignore_errors=True)
            raise
        working.rename(run)
        return True

    def _steps(self) -> list[str]:
        """Names of the committed steps there."""
        selector = fs.FileSelector(f"{self.base}/checkpoints", recursive=True, allow_not_found=True)
        found = (i.path.removeprefix(f"{self.base}/checkpoints/") for i in self._there.get_file_info(selector))
        steps = (
            match[1] for path in found if (match := STEP.fullmatch(path))
        )  # not what somebody copied there besides
        return sorted(steps, key=number_of)

    def _copy(self, source: str, here: fs.FileSystem, target: str, there: fs.FileSystem) -> None:
        fs.copy_files(source, target, source_filesystem=here, destination_filesystem=there)
