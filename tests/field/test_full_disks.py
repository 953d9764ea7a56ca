"""A disk that is full or becomes read-only: a sentence, nothing half-written counts, and afterwards the bytes of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.errors import Infrastructure, of_disk
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.search import search
from sparring.cluster.search.results import results_of
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.cluster.training.progress import Progress
from tests.conftest import Command
from tests.helpers import bytes_of, planted, small, small_flags

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


COMMANDS: dict[str, list[str]] = {
    "evaluate": [
        "evaluate",
        "disk/runs/r",
        "--attacks=clean,fgsm",
        "--examples=40",
        "--block=8",
        "--name=e",
        "--masking=0",
    ],
    "report": ["report", "disk/runs/r", "--examples=8"],
    "publish": ["publish", "disk/runs/r@peer0", "--as=m", "--models-dir=disk/models"],
}


def made(command: str, disk: Disk) -> Any:
    """What a command left behind, without times."""
    if command == "publish":
        assert [p.name for p in (disk.path / "models" / "m").iterdir()] == ["1"]
        return json.loads((disk.path / "models" / "m" / "1" / "MANIFEST.json").read_bytes())["files"]
    place = disk.path / "runs" / "r" / ("evaluation/e" if command == "evaluate" else "")
    found = json.loads((place / "report.json").read_bytes())
    return found["blocks"] if command == "evaluate" else {**found, "environment": None}


@pytest.fixture
def run(undisturbed: Path, disk: Disk) -> Path:
    return shutil.copytree(undisturbed, disk.path / "runs" / "r")


def clean(disk: Disk) -> None:
    for path in (disk.path / "models", disk.path / "runs" / "r" / "evaluation"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("command", [pytest.param(c, marks=pytest.mark.soak) for c in COMMANDS])
def test_a_command_on_a_full_disk(command: str, run: Path, disk: Disk, sparring: Command) -> None:
    assert sparring(*COMMANDS[command], "--quiet").returncode == 0
    expected = made(command, disk)
    before = (run / "checkpoints" / "last.json").read_bytes()
    for pages in range(100):
        clean(disk)
        if command == "report":
            for name in ("report.json", "report.html"):
                (run / name).unlink(missing_ok=True)
            shutil.rmtree(run / "tensorboard" / "report", ignore_errors=True)
        disk.leave(pages)
        done = sparring(*COMMANDS[command], "--quiet")
        assert "Traceback" not in done.stderr
        if done.returncode == 0:
            break
        assert done.returncode == 8, (pages, done.stderr)
        assert re.search(
            r"disk/\S+ cannot be written: no space left on the device\. .*Free some there, then: the same command",
            done.stderr,
        )
        if "blocks" in done.stderr:
            done_already = len(list((run / "evaluation" / "e").rglob("block-*.parquet")))
            assert f"{done_already} of 10 blocks of the evaluation are in" in done.stderr
        whole(disk)
        disk.free()
        done = sparring(*COMMANDS[command], "--quiet")
        assert done.returncode == 0, (pages, done.stderr)
        assert made(command, disk) == expected
    assert pages > 3
    assert (run / "checkpoints" / "last.json").read_bytes() == before


@pytest.mark.parametrize("command", [*COMMANDS, "resume"])
def test_a_read_only_disk(command: str, run: Path, disk: Disk, undisturbed: Path, sparring: Command) -> None:
    words = COMMANDS.get(command, ["resume", "disk/runs/r"])
    if command == "resume":
        shutil.rmtree(run / "checkpoints" / "step-000006")
    disk.remount("ro")
    done = sparring(*words, "--quiet")
    assert done.returncode == 8, done.stderr
    assert re.search(r"disk/\S+ cannot be written: read-only file system\. .*Make it writable, then: ", done.stderr)
    assert ("The checkpoint of step 4 is safe" in done.stderr) == (command == "resume")
    disk.remount("rw")
    whole(disk)
    done = sparring(*words, "--quiet")
    assert done.returncode == 0, done.stderr
    if command == "resume":
        assert bytes_of(run) == bytes_of(undisturbed)


def test_a_new_run_on_a_read_only_disk(disk: Disk, sparring: Command) -> None:
    disk.remount("ro")
    done = sparring("train", "mat", *LOCAL, "--runs-dir=disk", "--quiet")
    assert done.returncode == 2
    assert (
        "--runs-dir disk cannot be written (Read-only file system); choose another folder: --runs-dir DIR"
        in done.stderr
    )
    disk.remount("rw")
    assert list(disk.path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize("pages", [8, 24, 30, 36])
def test_agents_that_write_their_own_files(pages: int, disk: Disk, undisturbed: Path, ray_session: str) -> None:
    config, runs = CONFIG.replace({"team": "ray"}), disk.path / "runs"
    disk.leave(pages)
    with pytest.raises(
        Infrastructure, match=r"disk/runs/r\S* cannot be written: no space left on the device\. .*sparring resume "
    ):
        launch.train(config, runs_dir=runs, name="r", how=QUIET)
    whole(disk)
    disk.free()
    assert bytes_of(launch.resume(runs / "r", how=QUIET).path) == bytes_of(undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("pages", [8])
def test_a_search(pages: int, disk: Disk, tmp_path: Path, ray_session: str) -> None:
    asked = planted(steps=4, every=2, trials=2, scheduler="fifo")
    expected = results_of(search.tune(asked, runs_dir=tmp_path / "whole", name="s"))
    disk.leave(pages)
    with pytest.raises(Infrastructure, match="no space left on the device") as told:
        search.tune(asked, runs_dir=disk.path / "runs", name="s")
    folder = disk.path / "runs" / "s"
    assert not folder.exists() or "--name s --resume" in str(told.value)
    disk.free()
    search.tune(asked, runs_dir=disk.path / "runs", name="s", resume=folder.exists())
    assert results_of(folder) == expected


def test_a_disk_that_breaks_is_said() -> None:
    """EIO comes of reading as well as of writing; a real one cannot be made here."""
    told = of_disk(
        OSError(errno.EIO, "Input/output error", "runs/a/x"),
        "The checkpoint of step 20 is safe",
        "sparring resume runs/a",
    )
    assert told is not None
    assert told.code == 8
    assert str(told) == (
        "runs/a/x cannot be read or written: input/output error. The checkpoint of step 20 is safe. See what the system says of the disk "
        "(dmesg), or bring the folder to another one, then: sparring resume runs/a"
    )
