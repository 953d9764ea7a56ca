"""A service as its user starts it: ``sparring serve`` in a process of its own, with a Ray of its own."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.helpers import CLONE, PATIENCE

MARK = "SPARRING_TEST_SERVICE"
IN_A_ROW = 20  # of two predictors one is missed by all of them once in a million


def free_port() -> int:
    """A port that nobody has, outside the ranges from which the kernel and Ray take theirs in the meantime."""
    while True:
        port = random.SystemRandom().randrange(21_000, 32_000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class Service:
    """A running service."""

    url: str
    process: subprocess.Popen[str]
    mark: str
    errors: Path
    by: str = ""  # ray or local

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE)

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas; of all, where none is named."""
        return [pid for pid, name in self._processes() if re.match(rf"ray::ServeReplica:sparring:{deployment}", name)]

    def wait(self, path: str, told: Callable[[httpx.Response], bool], timeout: float = PATIENCE) -> None:
        """Until every predictor answers so: each looks for new versions by itself."""
        deadline, in_a_row = time.monotonic() + timeout, 0
        while in_a_row < IN_A_ROW:
            answer = httpx.get(f"{self.url}{path}", timeout=PATIENCE)
            in_a_row = in_a_row + 1 if told(answer) else 0
            assert time.monotonic() < deadline, f"after {timeout:g} s {path} still answers {answer.text[:500]}"
            if not in_a_row:
                time.sleep(0.2)

    def memory(self, *, whole: bool = False) -> int:
        """Bytes that all processes hold which answer; ``whole``: with Ray's own."""
        pids = [self.process.pid]
        pids += [pid for pid, name in self._processes() if name.startswith("ray::ServeReplica") or whole]
        return sum(_held(pid) for pid in set(pids))

    def _processes(self) -> Iterator[tuple[int, str]]:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    yield int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ProcessLookupError):
                continue

    def kill(self, deployment: str) -> int:
        """kill -9 one of its replicas; its process id."""
        pid = self.replicas(deployment)[0]
        os.kill(pid, signal.SIGKILL)
        return pid


def _held(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # it has ended
        return 0


@contextmanager
def running(folder: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """``sparring serve`` in ``folder`` with these flags, ready."""
    port, mark = free_port(), secrets.token_hex(8)
    command = [sys.executable, str(CLONE / "sparring.py"), "serve", f"--port={port}", *flags]
    errors = folder / f"serve-{port}.log"
    env = {**os.environ, MARK: mark, **(environment or {})}
    with errors.open("w") as err:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True, env=env)
    service = Service(f"http://127.0.0.1:{port}", process, mark, errors)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("serving "), errors.read_text()
        yield service
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@dataclass
class Load:
    """What clients met who ask all the time."""

    failed: list[str] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    right: int = 0
    seconds: list[float] = field(default_factory=list)

    def wait(self, count: int, timeout: float = PATIENCE) -> None:
        """Until so many answers were right."""
        deadline = time.monotonic() + timeout
        while self.right < count:
            assert time.monotonic() < deadline, f"{self.right} right answers, {count} are waited for; {self.failed[:3]}"
            time.sleep(0.02)


@contextmanager
def clients(count: int, ask: Callable[[httpx.Client, int], bool], url: str) -> Iterator[Load]:
    """``count`` clients that ask until the end of the block; ``ask`` says whether the answer is right, and raises when none came."""
    load, ended = Load(), threading.Event()

    def loop(number: int) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            i = number
            while not ended.is_set():
                started = time.monotonic()
                try:
                    if ask(client, i):
                        load.right += 1
                    else:
                        load.wrong.append(i)
                except Exception as error:  # whatever it was, the client has no answer
                    load.failed.append(f"{type(error).__name__}: {error}")
                load.seconds.append(time.monotonic() - started)
                i += count

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        ended.set()
        for thread in threads:
            thread.join()
