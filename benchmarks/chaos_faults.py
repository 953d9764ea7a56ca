"""What can happen to a command: each fault says what it hit, None where that is not there, and how it ends again."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from chaos_bucket import BUCKET
from chaos_hosts import HOSTS, LOADER_ON_HOSTS
from chaos_scene import Hit, Scene, quietly

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)  # Debian's package faketime
ELSEWHERE = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', "elsewhere"]  # a machine of another name
ONCE = ("other images", "other Ray version")  # what ends when the command that begins next has ended


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
    return hit, (lambda: quietly(signal.SIGCONT, pids[0])) if hit else None


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
    scene.env |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{hours:+}h"}
    _, _ = driver_killed(scene)
    return f"the command is killed, and begun again with its clock {hours:+} h", None


def another_machine(scene: Scene) -> Hit:
    """The command is killed, and begun again on a machine of another name: whether it is gone there nobody can see but by its signs of life."""
    scene.inside = ELSEWHERE
    scene.allowed.add(3)
    _, _ = driver_killed(scene)
    return "the command is killed, and begun again on another machine", None


def run_moved(scene: Scene) -> Hit:
    """The folder is renamed while it is written to, and has its name again after a while."""
    run = scene.subject.run(scene.place)
    if not run.exists():
        return None, None
    scene.allowed.add(3)
    run.rename(run.with_name("moved"))
    return "the run's folder", lambda: run.with_name("moved").rename(run)


def other_images(scene: Scene) -> Hit:
    """The command is killed; the next one finds another image in the place of one that was trained on, the one after that the old one."""
    file, other = sorted((scene.subject.images or Path()).glob("train/*/*.jpg"))[:2]
    before = file.read_bytes()
    _, _ = driver_killed(scene)
    file.write_bytes(other.read_bytes())
    scene.allowed.add(4)
    return f"the command is killed, and {file.name} another", lambda: _put_back(file, before)


def _put_back(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def other_version(scene: Scene) -> Hit:
    """The command is killed; the next one has another Ray than its cluster, the one after that the same again."""
    _, _ = driver_killed(scene)
    scene.env["SPARRING_CHAOS_RAY"] = "2.59.0"
    return "the command is killed, and begun again with another Ray", lambda: _forget(scene)


def _forget(scene: Scene) -> None:
    del scene.env["SPARRING_CHAOS_RAY"]


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
    "agent hung": lambda scene: _hung(scene, agents(scene)[-1:], "agent"),
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
    "another machine": another_machine,
    "run moved": run_moved,
    "other images": other_images,
    "other Ray version": other_version,
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
    **LOADER_ON_HOSTS,
    **BUCKET,
}
ON_RAY = (
    *("agent killed", "agent killed", "agent hung", "agent paused", "raylet killed", "raylet paused", "GCS killed"),
    *("driver killed", "driver told to end", "driver paused"),
    *("a second time", "disk full", "disk read-only", "no memory", "fsync fails", "clock ahead", "clock behind"),
)
TRAINING = (*ON_RAY, "another machine", "run moved")
MIRRORED = (*BUCKET, *BUCKET, *ON_RAY)
SERVING = (
    *("replica killed", "replica killed", "replica hung", "replica paused", "ledger killed"),
    *("controller killed", "HAProxy killed", "proxy actor killed"),
    *("raylet killed", "GCS killed", "driver killed", "driver told to end"),
)
ON_HOSTS = (
    *HOSTS,
    "driver killed",
    "driver told to end",
    "driver paused",
    "a second time",
    "disk full",
    "other Ray version",
)
WITH_LOADER = (*ON_RAY, "loader killed", "loader's worker killed", "loader hung", "other images")
ENCODED_ON_HOSTS = (*LOADER_ON_HOSTS, *LOADER_ON_HOSTS, *ON_HOSTS)
