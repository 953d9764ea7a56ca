"""A copy of a run elsewhere, for machines whose disk goes with them: any place that ``pyarrow.fs`` knows (file, s3, gs, hdfs).

    commit of step t --push--> URI/NAME/{config.yaml, env.json, *.jsonl, checkpoints/step-t/..., COMMITTED last}
    train --resume-if-exists on another machine --pull--> the newest committed step --> continues as resume does

Tried with local folders only; other file systems are pyarrow's.
"""

from __future__ import annotations

from pathlib import Path

from pyarrow import ArrowInvalid, fs

from cluster.errors import BrokenCheckpoint, UsageError
from cluster.run_folder import RunFolder

RECORDS = ("config.yaml", "env.json", "metrics.jsonl", "validation.jsonl", "alarms.jsonl", "log.txt")
COMMITTED = "COMMITTED"


class Mirror:
    """The folder ``URI/NAME``.

    Args:
        uri: where mirrors live: ``s3://bucket/runs``, ``file:///mnt/runs``.
        name: the run's.

    Raises:
        UsageError: no file system of that kind.
    """

    def __init__(self, uri: str, name: str) -> None:
        try:
            self._there, base = fs.FileSystem.from_uri(uri)
        except (ArrowInvalid, OSError) as error:
            raise UsageError(
                f"--mirror {uri!r} is not a place to copy to: {error}. Expected a URI, such as s3://bucket/runs or file:///mnt/runs"
            ) from error
        self._base, self._here = f"{base.rstrip('/')}/{name}", fs.LocalFileSystem()

    def push(self, folder: RunFolder, t: int) -> None:
        """Copy the committed checkpoint of step ``t`` and the records until then; older steps that the run dropped go."""
        step = folder.checkpoints.path(t)
        files = sorted(p for p in step.rglob("*") if p.is_file() and p.name != COMMITTED)
        for path in [*files, *(folder.path / name for name in RECORDS), step / COMMITTED]:
            if path.exists():
                to = f"{self._base}/{path.relative_to(folder.path)}"
                self._there.create_dir(to.rpartition("/")[0])
                self._copy(str(path), self._here, f"{to}.part", self._there)
                self._there.move(f"{to}.part", to)
        kept = {folder.checkpoints.path(s).name for s in folder.checkpoints.committed()}
        for old in self._steps():
            if old not in kept:
                self._there.delete_file(f"{self._base}/checkpoints/{old}/{COMMITTED}")
                self._there.delete_dir(f"{self._base}/checkpoints/{old}")

    def pull(self, run: Path) -> bool:
        """Bring the run here, with all its committed steps; False when nothing was committed there.

        Raises:
            BrokenCheckpoint: the copy cannot be read.
        """
        steps = self._steps()
        if not steps:
            return False
        selector = fs.FileSelector(self._base, recursive=True)
        wanted = tuple(f"{self._base}/checkpoints/{s}/" for s in steps)
        working = run.with_name(f".{run.name}.pull")
        try:
            for info in self._there.get_file_info(selector):
                inside = info.path.removeprefix(f"{self._base}/")
                if (
                    info.is_file
                    and (info.path.startswith(wanted) or "/" not in inside)
                    and not inside.endswith(".part")
                ):
                    (working / inside).parent.mkdir(parents=True, exist_ok=True)
                    self._copy(info.path, self._there, str(working / inside), self._here)
        except OSError as error:
            raise BrokenCheckpoint(f"the mirror {self._base} cannot be read: {error}") from error
        working.rename(run)
        return True

    def _steps(self) -> list[str]:
        """Names of the committed steps there."""
        selector = fs.FileSelector(f"{self._base}/checkpoints", recursive=True, allow_not_found=True)
        found = (i.path.removeprefix(f"{self._base}/checkpoints/") for i in self._there.get_file_info(selector))
        return sorted(path.partition("/")[0] for path in found if path.endswith(f"/{COMMITTED}"))

    def _copy(self, source: str, here: fs.FileSystem, target: str, there: fs.FileSystem) -> None:
        fs.copy_files(source, target, source_filesystem=here, destination_filesystem=there)
