"""What can happen to a command: each fault says what it hit, None where that is not there, and how it ends again."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import chaos_left
from chaos_bucket import BUCKET
from chaos_hosts import HOSTS

if TYPE_CHECKING:
    from chaos_what import Subject

Lift: TypeAlias = Callable[[], None]
Hit: TypeAlias = tuple[str | None, Lift | None]
DISK = "48m"  # of a scenario's runs
BROKEN = Path(__file__).parent / "chaos_disk"  # a sitecustomize by which fsync can fail
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)  # Debian's package faketime
MARK = "SPARRING_CHAOS"  # in the environment of everything that a scenario starts


class Scene:
    """A command, everything that it started, and the folder that it writes to."""

    def __init__(self, place: Path, subject: Subject) -> None:
        self.place, self.subject = place, subject
        self.mark = uuid.uuid4().hex
        self.killed_by_us = False
        self.fsync_fails = place / "fsync-fails"  # while it is there
        self.clock: dict[str, str] = {}  # in the environment of a command whose clock is wrong
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
        self.others.append(self._start(self.place / f"other-{len(self.others)}.txt", again=True))

    def _start(self, output: Path, *, again: bool) -> subprocess.Popen[bytes]:
        command = self.subject.command(self.place, again=again)  # which may tell this process a token
        env = {**os.environ, MARK: self.mark, "RAY_TMPDIR": self._ray.name, "OMP_NUM_THREADS": "1"}
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "80"}
        env |= {"PYTHONPATH": str(BROKEN), "SPARRING_CHAOS_FSYNC": str(self.fsync_fails), **self.clock}
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
            _quietly(signal.SIGCONT, pid)

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


def _send(number: int, pids: list[int], name: str) -> Hit:
    for pid in pids[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return f"{name}, process {pid}", None
    return None, None


def _hung(scene: Scene, pids: list[int], name: str) -> Hit:
    """Stopped for as long as the scenario lasts: then it may go on, since nobody but a kill ends a stopped process."""
    hit, _ = _send(signal.SIGSTOP, pids, name)
    scene.stopped += pids[:1] if hit else []
    return hit, None


def _paused(pids: list[int], name: str) -> Hit:
    hit, _ = _send(signal.SIGSTOP, pids, name)
    return hit, (lambda: _quietly(signal.SIGCONT, pids[0])) if hit else None


def _quietly(number: int, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def agents(scene: Scene) -> list[int]:
    """Processes of Ray that work on something."""
    helps = ("ray::IDLE", "DashboardAgent", "RuntimeEnvAgent")
    named = scene.processes().items()
    return sorted(pid for pid, argv in named if argv[0].startswith("ray::") and not any(h in argv[0] for h in helps))


def driver_killed(scene: Scene) -> Hit:
    """kill -9 of the command itself."""
    scene.killed_by_us = True
    return _send(signal.SIGKILL, scene.commands(), "the command")


def driver_told(scene: Scene) -> Hit:
    """SIGTERM, as a batch system sends it."""
    scene.killed_by_us = True  # it may come before Python listens
    return _send(signal.SIGTERM, scene.commands(), "the command")


def again_beside(scene: Scene) -> Hit:
    """The same command is typed a second time."""
    scene.begin_another()
    return "the command a second time", None


def disk_full(scene: Scene) -> Hit:
    """Nothing more fits on the disk of the runs for a while."""
    if not scene.own_disk:
        return None, None
    filler = scene.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as sink:
        while True:
            sink.write(bytes(1 << 20))
    return "disk full", lambda: filler.unlink(missing_ok=True)


def disk_read_only(scene: Scene) -> Hit:
    """The disk of the runs takes nothing for a while; refused by the kernel where a file is open for writing."""
    if not scene.own_disk or _mounted(scene, "ro"):
        return None, None
    return "disk read-only", lambda: writable(scene)


def writable(scene: Scene) -> None:
    """As before."""
    _mounted(scene, "rw")


def _mounted(scene: Scene, how: str) -> bool:
    """Mount again; whether that failed."""
    command = ["mount", "-o", f"remount,{how}", str(scene.disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def fsync_fails(scene: Scene) -> Hit:
    """What is written is not promised to reach the disk for a while."""
    scene.fsync_fails.touch()
    return "fsync fails", lambda: scene.fsync_fails.unlink(missing_ok=True)


def clock_wrong(scene: Scene, hours: int) -> Hit:
    """The command is killed; the clock of the next one is another, as on another host."""
    if FAKETIME is None:
        return None, None
    scene.clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{hours:+}h"}
    _, _ = driver_killed(scene)
    return f"the command is killed, and begun again with its clock {hours:+} h", None


def no_memory(scene: Scene) -> Hit:
    """An agent gets no more memory."""
    for pid in agents(scene)[-1:]:
        with contextlib.suppress(OSError, ValueError):
            size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
            return f"memory of an agent, process {pid}", None
    return None, None


FAULTS: dict[str, Callable[[Scene], Hit]] = {
    "agent killed": lambda scene: _send(signal.SIGKILL, agents(scene)[-1:], "agent"),
    "agent hung": lambda scene: _hung(scene, agents(scene)[:1], "agent"),
    "agent paused": lambda scene: _paused(agents(scene)[:1], "agent"),
    "raylet killed": lambda scene: _send(signal.SIGKILL, scene.of("/raylet/raylet"), "raylet"),
    "raylet paused": lambda scene: _paused(scene.of("/raylet/raylet"), "raylet"),
    "GCS killed": lambda scene: _send(signal.SIGKILL, scene.of("gcs_server"), "GCS"),
    "driver killed": driver_killed,
    "driver told to end": driver_told,
    "driver paused": lambda scene: _paused(scene.commands(), "the command"),
    "a second time": again_beside,
    "disk full": disk_full,
    "disk read-only": disk_read_only,
    "no memory": no_memory,
    "fsync fails": fsync_fails,
    "clock ahead": lambda scene: clock_wrong(scene, 5),
    "clock behind": lambda scene: clock_wrong(scene, -5),
    "replica killed": lambda scene: _send(signal.SIGKILL, scene.of("ServeReplica:sparring:pred"), "replica"),
    "replica hung": lambda scene: _hung(scene, scene.of("ServeReplica:sparring:pred"), "replica"),
    "replica paused": lambda scene: _paused(scene.of("ServeReplica:sparring:pred"), "replica"),
    "ledger killed": lambda scene: _send(signal.SIGKILL, scene.of("ServeReplica:sparring:ledger"), "ledger"),
    "controller killed": lambda scene: _send(signal.SIGKILL, scene.of("ServeController"), "Serve's controller"),
    "HAProxy killed": lambda scene: _send(signal.SIGKILL, scene.of("haproxy -"), "HAProxy"),
    "proxy actor killed": lambda scene: _send(signal.SIGKILL, scene.of("ProxyActor", "ProxyManager"), "Serve's proxy"),
    "loader killed": lambda scene: _send(signal.SIGKILL, scene.of("sparring-loader")[:1], "loader"),
    "loader's worker killed": lambda scene: _send(signal.SIGKILL, scene.of("sparring-loader")[1:], "loader's process"),
    "loader hung": lambda scene: _paused(scene.of("sparring-loader")[:1], "loader"),
    **HOSTS,
    **BUCKET,
}
ON_RAY = (
    *("agent killed", "agent killed", "agent hung", "agent paused", "raylet killed", "raylet paused", "GCS killed"),
    *("driver killed", "driver told to end", "driver paused"),
    *("a second time", "disk full", "disk read-only", "no memory", "fsync fails", "clock ahead", "clock behind"),
)
MIRRORED = (*BUCKET, *BUCKET, *ON_RAY)
SERVING = (
    *("replica killed", "replica killed", "replica hung", "replica paused", "ledger killed"),
    *("controller killed", "HAProxy killed", "proxy actor killed"),
    *("raylet killed", "GCS killed", "driver killed", "driver told to end"),
)
ON_HOSTS = (*HOSTS, "driver killed", "driver told to end", "driver paused", "a second time", "disk full")
WITH_LOADER = (*ON_RAY, "loader killed", "loader's worker killed", "loader hung")
