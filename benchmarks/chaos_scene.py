"""What a scenario happens to: a command, everything that it started, and the folder that it writes to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import chaos_left

if TYPE_CHECKING:
    from chaos_subject import Subject

Lift: TypeAlias = Callable[[], None]  # ends a fault
Hit: TypeAlias = tuple[str | None, Lift | None]  # what a fault hit, None where that is not there, and how it ends again
DISK = "48m"  # of a scenario's runs
BROKEN = Path(__file__).parent / "chaos_disk"  # a sitecustomize by which fsync can fail, and Ray be of another version
MARK = "SPARRING_CHAOS"  # in the environment of everything that a scenario starts


class Scene:
    """A command, everything that it started, and the folder that it writes to."""

    def __init__(self, place: Path, subject: Subject) -> None:
        self.place, self.subject = place, subject
        self.mark = uuid.uuid4().hex
        self.killed_by_us = False
        self.fsync_fails = place / "fsync-fails"  # while it is there
        self.env: dict[str, str] = {}  # of the commands that begin from now on: another clock, another Ray
        self.inside: list[str] = []  # what stands before them: another name of the machine
        self.allowed: set[int] = set()  # exit codes that this scenario's faults may cause besides
        self.stopped: list[int] = []  # processes
        self.begun = 0  # commands, one after the other
        self._output = place / "said.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._ray = tempfile.TemporaryDirectory(prefix="c", dir="/tmp")  # its sockets need a short path
        self.others: list[subprocess.Popen[bytes]] = []  # the same command at the same time
        self.disk = place / "runs"
        self.disk.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(self.disk)]
        self.own_disk = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def begin(self, *, again: bool) -> subprocess.Popen[bytes]:
        """Start the command, or what goes on with it."""
        self.killed_by_us = False
        self.begun += 1
        self._process = self._start(self._output, again=again)
        return self._process

    def begin_another(self) -> None:
        """Start the same once more beside it."""
        self.allowed.add(3)
        self.others.append(self._start(self.place / f"other-{len(self.others)}.txt", again=True))

    def _start(self, output: Path, *, again: bool) -> subprocess.Popen[bytes]:
        command = [*self.inside, *self.subject.command(self.place, again=again)]  # which may tell this process a token
        env = {**os.environ, MARK: self.mark, "RAY_TMPDIR": self._ray.name, "OMP_NUM_THREADS": "1"}
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "80"}
        env |= {"PYTHONPATH": str(BROKEN), "SPARRING_CHAOS_FSYNC": str(self.fsync_fails), **self.env}
        with output.open("wb") as sink:
            return subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=env, cwd=self.place)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The command that runs, or ran last."""
        assert self._process is not None
        return self._process

    def commands(self) -> list[int]:
        """The process of ``sparring``: what runs, or what that has started."""
        within = self.of(self.subject.within) if self.subject.within else [self.process.pid]
        return within if self.process.poll() is None else []

    def said(self) -> str:
        """What the command wrote."""
        return self._output.read_text(errors="replace")

    def processes(self) -> dict[int, list[str]]:
        """All processes of this scenario that are alive, with their arguments."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if argv != [""]:
                        found[int(entry.name)] = argv
        return found

    def of(self, *words: str) -> list[int]:
        """Processes whose arguments hold one of these words."""
        named = self.processes().items()
        return sorted(pid for pid, argv in named if any(word in " ".join(argv[:12]) for word in words))

    def saving(self) -> bool:
        """Whether a file or a checkpoint is being written."""
        return bool(chaos_left.found(self.subject.run(self.place), "*.tmp"))

    def recovering(self) -> bool:
        """Whether an earlier fault was noticed: the log says so, or the command goes on."""
        log = self.subject.run(self.place) / "log.txt"
        return self.begun > 1 or (log.exists() and "lost: " in log.read_text(errors="replace"))

    def release(self) -> None:
        """Let stopped processes go on."""
        for pid in self.stopped:
            quietly(signal.SIGCONT, pid)

    def end(self) -> None:
        """Kill what is left, and forget what Ray kept."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._ray.name, ignore_errors=True)
        Path(self._ray.name).mkdir(exist_ok=True)
        if self.own_disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)
            self.own_disk = False


def quietly(number: int, pid: int) -> None:
    """A signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
