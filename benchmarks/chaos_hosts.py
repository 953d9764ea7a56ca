"""A head and two workers, each a network namespace with a Ray of its own (root), and what can happen to them."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common  # noqa: F401  # by which the clone can be imported from

from tests.hosts import _Namespaces, can_make_namespaces, joined

if TYPE_CHECKING:
    from chaos_scene import Hit, Scene

CPUS = 2
JOINS = 60.0  # seconds in which a worker has joined


class Cluster:
    """Hosts that scenarios share; what one has lost is there again for the next."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache  # an empty disk of its own on every worker
        self.cache.mkdir()
        self._hosts: Any = None
        self.workers: list[str] = []
        atexit.register(self.close)

    def ready(self) -> None:
        """Two workers that have joined."""
        if self._hosts is None:
            token = self.cache.with_name("token")
            if not token.exists():
                token.touch(mode=0o600)
                token.write_text(os.urandom(32).hex())
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_worker_niceness": "0"}
            self._hosts = _Namespaces(self.cache)
            self._hosts.start()
        while len(self.workers) < 2:
            self.workers.append(self._hosts.add(CPUS))
        deadline = time.monotonic() + JOINS
        while joined(self._hosts, seconds=JOINS) < 2 and time.monotonic() < deadline:
            time.sleep(1.0)

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self._hosts.address)

    def on_head(self, command: list[str]) -> list[str]:
        """The same command, in the head's network."""
        self.ready()
        token = self._hosts._temp / "1" / "token"
        inside = ["ip", "netns", "exec", self._hosts._names[self.address.partition(":")[0]]]
        return [*inside, "env", f"RAY_AUTH_TOKEN_PATH={token}", *command, f"--address={self.address}"]

    def lose(self, worker: str) -> None:
        """A worker dies."""
        self.workers.remove(worker)
        self._hosts.kill(worker)

    def more(self) -> None:
        """A worker joins."""
        if self._hosts is not None and len(self.workers) < 2:
            self.workers.append(self._hosts.add(CPUS))

    def close(self) -> None:
        """Everything ends; the next scenario gets other hosts."""
        if self._hosts is not None:
            hosts, self._hosts, self.workers = self._hosts, None, []
            hosts.close()

    def of_ray(self, word: str) -> list[int]:
        """Processes of all hosts whose title holds a word."""
        found = []
        for address in list(self._hosts._names) if self._hosts is not None else []:
            for pid in self._hosts._pids(address):
                with contextlib.suppress(OSError):
                    if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(pid)
        return sorted(found)

    def processes(self) -> dict[int, list[str]]:
        """All processes of all hosts, with their arguments."""
        found = {}
        for address in list(self._hosts._names) if self._hosts is not None else []:
            for pid in self._hosts._pids(address):
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return found

    def drain(self, worker: str) -> None:
        """Ray is told that a worker will be taken away."""
        self._hosts.drain(worker)

    def guest(self, what: str) -> subprocess.Popen[str]:
        """A job of somebody else's, see chaos_guest.py."""
        script = str(Path(__file__).with_name("chaos_guest.py"))
        started: subprocess.Popen[str] = self._hosts.run(sys.executable, script, self.address, what)
        return started

    def cut(self, *, again: bool) -> None:
        """Nothing passes between the workers, or everything."""
        if len(self.workers) == 2:
            one, other = self.workers
            with contextlib.suppress(subprocess.CalledProcessError):
                self._hosts.cut(one, other, again=again)
                self._hosts.cut(other, one, again=again)

    def slow(self, rate: str) -> None:
        """What workers send leaves them at this rate."""
        self._hosts.slow(rate)


def cluster_of(scene: Scene) -> Cluster:
    """Where the scene's command runs."""
    cluster = scene.subject.cluster
    assert cluster is not None
    return cluster


def node_killed(scene: Scene) -> Hit:
    """A host is gone at once; another joins after a while."""
    cluster = cluster_of(scene)
    if len(cluster.workers) < 2:
        return None, None
    lost = cluster.workers[-1]
    cluster.lose(lost)
    return f"host {lost.rpartition('.')[2]}", cluster.more


def node_drained(scene: Scene) -> Hit:
    """A host is to be taken away, as a cloud tells of its cheaper ones, and is gone after a while; another joins."""
    cluster = cluster_of(scene)
    if len(cluster.workers) < 2:
        return None, None
    leaves = cluster.workers[-1]
    cluster.drain(leaves)

    def lift() -> None:
        cluster.lose(leaves)
        cluster.more()

    return f"host {leaves.rpartition('.')[2]} is drained", lift


def guest(scene: Scene, what: str) -> Hit:
    """Somebody else's job on the same cluster takes what it has, for a while; of CPUs those that a killed command leaves."""
    if what == "cpus":
        scene.killed_by_us = True
        for pid in scene.commands():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process = cluster_of(scene).guest(what)
    return f"somebody else's job takes all {what}", process.kill


def head_killed(scene: Scene) -> Hit:
    """The head is gone, and the command with it; then there is a new cluster."""
    cluster = cluster_of(scene)
    scene.killed_by_us = True
    pids = cluster._hosts._pids(cluster.address.partition(":")[0])
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "the head", cluster.close


def link_cut(scene: Scene) -> Hit:
    """Nothing passes between the workers for a while."""
    cluster = cluster_of(scene)
    if len(cluster.workers) < 2:
        return None, None
    cluster.cut(again=False)
    return "link between the workers", lambda: cluster.cut(again=True)


def link_slow(scene: Scene) -> Hit:
    """What the workers send leaves them at 2 Mbit/s for a while."""
    cluster = cluster_of(scene)
    cluster.slow("2mbit")
    return "links at 2 Mbit/s", lambda: cluster.slow("10gbit")


def agents_of(scene: Scene, number: int, *, again: int | None = None) -> Hit:
    """A signal to one agent, and another that ends the first's effect."""
    for pid in cluster_of(scene).of_ray("ray::_Actor")[:1]:
        os.kill(pid, number)
        return f"agent, process {pid}", None if again is None else _later(pid, again)
    return None, None


def loader_of(scene: Scene, number: int, *, again: int | None = None) -> Hit:
    """A signal to the process that decodes images for a host's agents."""
    for pid in cluster_of(scene).of_ray("sparring-loader")[:1]:
        os.kill(pid, number)
        return f"loader, process {pid}", None if again is None else _later(pid, again)
    return None, None


def _later(pid: int, number: int) -> Callable[[], None]:
    def lift() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    return lift


HOSTS: dict[str, Callable[[Scene], Hit]] = {
    "host killed": node_killed,
    "host drained": node_drained,
    "head killed": head_killed,
    "link cut": link_cut,
    "link slow": link_slow,
    "host's agent killed": lambda scene: agents_of(scene, signal.SIGKILL),
    "host's agent hung": lambda scene: agents_of(scene, signal.SIGSTOP),
    "host's agent paused": lambda scene: agents_of(scene, signal.SIGSTOP, again=signal.SIGCONT),
    "no room": lambda scene: guest(scene, "cpus"),
    "object stores full": lambda scene: guest(scene, "stores"),
}
LOADER_ON_HOSTS: dict[str, Callable[[Scene], Hit]] = {
    "host's loader killed": lambda scene: loader_of(scene, signal.SIGKILL),
    "host's loader hung": lambda scene: loader_of(scene, signal.SIGSTOP, again=signal.SIGCONT),
}


def possible() -> bool:
    """Whether namespaces can be made here."""
    return can_make_namespaces()
