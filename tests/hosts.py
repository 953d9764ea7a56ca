"""Several hosts on one machine: network namespaces with a Ray each (root), or raylets of ``ray.cluster_utils`` (anybody)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.helpers import CLONE, PATIENCE

SUBNET = "10.77.{net}"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
STORE = 100 * 2**20
REDIS = 6390  # port


class Hosts(Protocol):
    """A head without CPUs for agents, on which drivers run, and workers."""

    address: str

    def add(self, cpus: int, *, gpus: int = 0, labels: str = "") -> str:
        """Start a worker, with GPUs that Ray believes in; its address."""

    def kill(self, worker: str) -> None:
        """SIGKILL of everything on a worker at once."""

    def drain(self, worker: str) -> None:
        """Tell Ray that a worker will be taken away."""

    def cut(self, one: str, other: str, *, again: bool = False) -> None:
        """Let nothing pass from one worker to the other; ``again``: everything, as before."""

    def slow(self, rate: str) -> None:
        """Let what each worker sends leave it at this rate, in tc's words."""

    def run(self, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """A command on the head, in the clone."""


def can_make_namespaces() -> bool:
    """Whether this process may make network namespaces."""
    if os.environ.get("SPARRING_TEST_HOSTS") == "processes" or os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


class _Drains:
    """What both kinds do alike."""

    address: str

    def drain(self: Any, worker: str) -> None:
        script = "import sys, ray; ray.init(sys.argv[1]); print(*[n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == sys.argv[2]])"
        found = (
            self.run(sys.executable, "-c", script, self.address, worker).communicate(timeout=PATIENCE)[0].split()[-1]
        )
        options = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=600"]
        done = self.run(*RAY, "drain-node", f"--address={self.address}", f"--node-id={found}", *options)
        _, said = done.communicate(timeout=PATIENCE)
        assert done.returncode == 0, said


@contextmanager
def hosts(data: Path, *, redis: bool = False) -> Iterator[Hosts]:
    """A head, ready for workers.

    Args:
        data: a folder that is an empty disk of its own on every worker, where namespaces can be made.
        redis: keep the head's state in a Redis, on yet another host; with namespaces alone.
    """
    if can_make_namespaces():
        made: Any = _Namespaces(data, redis=redis)
    else:
        made = _Processes()
    try:
        made.start()
        yield made
    finally:
        made.close()


class _Namespaces(_Drains):
    """Hosts joined by a bridge; each has its own address, token file, temporary files and data folder."""

    def __init__(self, data: Path, *, redis: bool = False) -> None:
        self._data, self._id, self._redis = data, os.getpid() % 250, redis
        self._net = SUBNET.format(net=self._id)
        self._bridge = f"br{self._id}"
        self._temp = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))  # sockets need a short path
        self._names: dict[str, str] = {}  # address -> namespace
        self._processes: list[subprocess.Popen[str]] = []
        self._raylets: dict[str, int] = {}  # address -> process that sees the worker's own disk
        self._server: subprocess.Popen[bytes] | None = None
        self.address = f"{self._net}.1:6399"

    def start(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._net}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        if self._redis:
            options = f"--port {REDIS} --bind {self._net}.254 --protected-mode no --dir {self._temp} --save".split()
            self._server = subprocess.Popen(["redis-server", *options, ""], stdout=subprocess.DEVNULL)
        self._host()
        self._head()

    def head_again(self) -> None:
        """Start a lost head anew, as its pod would be."""
        (self._temp / "1" / "ray_current_cluster").unlink(missing_ok=True)  # a pod has an empty disk
        self._head()

    def _head(self) -> None:
        told = {"RAY_REDIS_ADDRESS": f"{self._net}.254:{REDIS}"} if self._redis else {}
        head = f"{self._net}.1"
        self._ray(head, "--head", "--port=6399", "--num-cpus=0", "--include-dashboard=false", env=told)

    def add(self, cpus: int, *, gpus: int = 0, labels: str = "") -> str:
        address = self._host()
        more = [f"--labels={labels}"] if labels else []
        self._ray(address, f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}", *more)
        return address

    def kill(self, worker: str) -> None:
        for pid in self._pids(worker):
            os.kill(pid, signal.SIGKILL)

    def cut(self, one: str, other: str, *, again: bool = False) -> None:
        rule = ["iptables", "-D" if again else "-A", "INPUT", "-s", one, "-j", "DROP"]
        _ip("netns", "exec", self._names[other], *rule)

    def slow(self, rate: str) -> None:
        shape = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
        for worker, name in list(self._names.items())[1:]:
            inside = f"w{self._id}-{worker.rpartition('.')[2]}"
            _ip("netns", "exec", name, "tc", "qdisc", "replace", "dev", inside, *shape)

    def run(self, *command: str, env: dict[str, str] | None = None, on: str = "") -> subprocess.Popen[str]:
        """``on``: on this worker, with its disk."""
        if on:
            command = ("nsenter", "--mount", "--target", str(self._raylets[on]), *command)
        return self._start(on or f"{self._net}.1", [*command], env=env or {}, own_disk=False)

    def close(self) -> None:
        for address, name in self._names.items():
            for pid in self._pids(address):
                os.kill(pid, signal.SIGKILL)
            _ip("netns", "del", name)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
            link = Path("/sys/class/net") / f"v{self._id}-{address.rpartition('.')[2]}"  # it goes with its peer
            wait_for(lambda link=link: not link.exists(), what=str(link))
        for process in self._processes:
            process.wait(timeout=PATIENCE)
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        _ip("link", "del", self._bridge)
        shutil.rmtree(self._temp, ignore_errors=True)

    def _host(self) -> str:
        number = len(self._names) + 1
        name, address = f"h{self._id}-{number}", f"{self._net}.{number}"
        outside, inside = f"v{self._id}-{number}", f"w{self._id}-{number}"
        _ip("netns", "add", name)
        self._names[address] = name
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", outside, "master", self._bridge, "up")
        _ip("link", "set", inside, "netns", name)
        for command in (
            ["addr", "add", f"{address}/24", "dev", inside],
            ["link", "set", inside, "up"],
            ["link", "set", "lo", "up"],
            ["route", "add", "default", "via", f"{self._net}.254"],
        ):
            _ip("-n", name, *command)
        own = Path("/etc/netns") / name  # `ip netns exec` puts these files over those of /etc
        own.mkdir(parents=True)
        (own / "hosts").write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
        (own / "resolv.conf").write_text("options timeout:1 attempts:1\n")  # there is no name server
        folder = self._temp / str(number)
        folder.mkdir()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text())
        return address

    def _ray(self, address: str, *options: str, env: dict[str, str] | None = None) -> None:
        folder = self._temp / address.rpartition(".")[2]
        fixed = [f"--node-ip-address={address}", f"--temp-dir={folder}", f"--object-store-memory={STORE}", "--block"]
        command = [*RAY, "start", *fixed, "--disable-usage-stats", *options]
        self._raylets[address] = self._start(address, command, env=env or {}, own_disk=True).pid

    def _start(self, address: str, command: list[str], *, env: dict[str, str], own_disk: bool) -> subprocess.Popen[str]:
        folder = self._temp / address.rpartition(".")[2]
        disk = f"mount -t tmpfs none {self._data} && " if own_disk and not address.endswith(".1") else ""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._names[address], "sh", "-c", f'{disk}exec "$@"', "sh", *command],
            cwd=CLONE,
            env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(folder / "token"), **env},
            stdout=subprocess.PIPE if not own_disk else (folder / "out").open("w"),
            stderr=subprocess.PIPE if not own_disk else subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        return process

    def _pids(self, address: str) -> list[int]:
        return [int(p) for p in _ip("netns", "pids", self._names[address]).split()]


class _Processes(_Drains):
    """Raylets of one host."""

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=options, shutdown_at_exit=False)
        self.address = str(self._cluster.address)
        self._nodes: dict[str, Any] = {}
        self._started: list[subprocess.Popen[str]] = []

    def add(self, cpus: int, *, gpus: int = 0, labels: str = "") -> str:
        chosen = dict(label.split("=") for label in labels.split(",") if label)
        address = f"127.0.0.{len(self._nodes) + 2}"
        self._nodes[address] = self._cluster.add_node(
            num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE, labels=chosen, node_ip_address=address
        )
        return address

    def kill(self, worker: str) -> None:
        (raylet,) = self._nodes[worker].all_processes["raylet"]
        pid = raylet.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, children)]:
            os.kill(each, signal.SIGKILL)

    def cut(self, one: str, other: str, *, again: bool = False) -> None:
        pytest.skip("hosts that are processes have no links to cut")

    def slow(self, rate: str) -> None:
        pytest.skip("hosts that are processes have no links to slow down")

    def run(self, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=CLONE, env={**os.environ, **(env or {})}, stdout=pipe, stderr=pipe, text=True
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            process.kill()
        self._cluster.shutdown()


def joined(cluster: Hosts, *, seconds: float = 60.0) -> int:
    """Workers of a cluster that are there; none as long as it does not answer."""
    script = "import sys, ray; ray.init(sys.argv[1], logging_level=50); print('joined', sum(n['Alive'] and n['Resources'].get('CPU', 0) > 0 for n in ray.nodes()))"
    asked = cluster.run(sys.executable, "-c", script, cluster.address)
    try:
        said = asked.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        asked.kill()
        return 0
    found = re.search(r"^joined (\d+)$", said, re.MULTILINE)  # what Ray writes when it fails stands there too
    return int(found[1]) if found else 0


def wait_for(condition: Any, *, seconds: float = PATIENCE, what: str = "") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _ip(*args: str) -> str:
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout
