"""A disk that is full or becomes read-only: a sentence, nothing half-written counts, and afterwards the bytes of an undisturbed run."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.errors import Infrastructure
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.cluster.training.progress import Progress
from tests.conftest import Command
from tests.helpers import bytes_of, small, small_flags

LOCAL = [*small_flags(max_steps=6, checkpoint__every=2), "--team=local", "--name=r"]
CONFIG = small("mat", team="local", max_steps=6, checkpoint__every=2)
QUIET = Circumstances(quiet=True)
PAGE = 4096


@dataclass
class Disk:
    """A small disk of its own."""

    path: Path

    def leave(self, pages: int) -> None:
        """Fill all but so many pages."""
        self.free()
        found = os.statvfs(self.path)
        size = found.f_bavail * found.f_frsize - pages * PAGE
        with (self.path / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def free(self) -> None:
        (self.path / "ballast").unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(path)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs a disk of its own: mounting is not allowed here")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch.train(CONFIG, runs_dir=tmp_path_factory.mktemp("runs"), name="r", how=QUIET).path


def whole(disk: Disk) -> None:
    """No file is left under a temporary name, and no folder of a step that was not committed."""
    assert [str(path) for path in disk.path.rglob("*.tmp")] == []
    for step in disk.path.rglob("step-??????"):
        assert (step / "COMMITTED").exists(), step


@pytest.mark.parametrize(
    "pages", [0, 36, *(pytest.param(n, marks=pytest.mark.soak) for n in (*range(1, 36), *range(37, 50)))]
)
def test_training(disk: Disk, undisturbed: Path, sparring: Command, pages: int) -> None:
    """The first file that finds no room is another one with every page more."""
    run = disk.path / "runs" / "r"
    begin = ("train", "mat", *LOCAL, f"--runs-dir={run.parent}", "--no-report", "--quiet")
    disk.leave(pages)
    done = sparring(*begin)
    assert done.returncode == 8, done.stderr
    assert re.search(
        r"disk/runs/r\S* cannot be written: no space left on the device\. .*Free some there, then: ", done.stderr
    )
    assert "Traceback" not in done.stderr
    whole(disk)
    steps = RunFolder(run).checkpoints.committed()
    assert not steps or f"The checkpoint of step {steps[-1]} is safe" in done.stderr
    assert ("sparring resume disk/runs/r" in done.stderr) == run.exists()
    disk.free()
    done = sparring("resume", run, "--quiet") if run.exists() else sparring(*begin)
    assert done.returncode == 0, done.stderr
    assert bytes_of(run) == bytes_of(undisturbed)
    assert RunFolder(run).lines("validation.jsonl") == RunFolder(undisturbed).lines("validation.jsonl")


def test_a_checkpoint_whose_steps_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full for a moment, when a line of metrics is written whose checkpoint is under way: a run that went on from there
    would never have that line."""
    config = CONFIG.replace({"max_steps": 8, "checkpoint.every": 4})
    undisturbed = launch.train(config, runs_dir=tmp_path, name="undisturbed", how=QUIET).path
    real, failed = Progress._write, list[int]()

    def write(progress: Progress, name: str, line: dict[str, Any]) -> None:
        if not failed and line["t"] == 3:
            failed.append(3)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(progress, name, line)

    monkeypatch.setattr(Progress, "_write", write)
    with pytest.raises(Infrastructure, match="The checkpoint of step 0 is safe"):
        launch.train(config, runs_dir=tmp_path, name="r", how=QUIET)
    assert bytes_of(launch.resume(tmp_path / "r", how=QUIET).path) == bytes_of(undisturbed)
