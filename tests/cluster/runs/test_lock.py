"""run.lock between machines: signs of life count and no clock does; after a reboot the number of a process says nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparring.cluster.errors import Exists
from sparring.cluster.runs import lock
from tests.helpers import CLONE, started

HOUR = 3600.0
AHEAD, BEHIND = HOUR, -HOUR


@pytest.fixture(autouse=True)
def _shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.4)
    monkeypatch.setattr(lock, "SETTLED", 0.05)


def of_another(run: Path, *, clock: float, **holder: object) -> Path:
    """The lock that a machine left behind whose clock differs from ours by so many seconds."""
    path = run / "run.lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "boot": "another", **holder}))
    os.utime(path, (time.time() + clock,) * 2)
    return path


@contextmanager
def beating(path: Path, *, clock: float) -> Iterator[None]:
    """Its holder is alive."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.3):
            os.utime(path, (time.time() + clock,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("clock", [AHEAD, BEHIND])
def test_a_machine_that_is_gone(clock: float, tmp_path: Path) -> None:
    of_another(tmp_path, clock=clock)
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["host"] == socket.gethostname()
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize(
    ("clock", "said"), [(AHEAD, r"3\d\d\d s ahead of this machine's clock"), (BEHIND, r"3\d\d\d s ago")]
)
def test_a_machine_that_lives_with_another_clock(clock: float, said: str, tmp_path: Path) -> None:
    path = of_another(tmp_path, clock=clock)
    before = path.read_text()
    with (
        beating(path, clock=clock),
        pytest.raises(Exists, match=rf"locked by process 1 on elsewhere \(last sign of life {said}\)"),
    ):
        lock.locked(tmp_path).__enter__()
    assert path.read_text() == before


def test_after_a_reboot_the_number_of_a_process_says_nothing(tmp_path: Path) -> None:
    """Our own number, as another process had it before the machine was started anew, a moment ago."""
    of_another(tmp_path, clock=0.0, host=socket.gethostname(), pid=os.getpid())
    with lock.locked(tmp_path):
        pass


def test_another_machine_of_the_same_name(tmp_path: Path) -> None:
    path = of_another(tmp_path, clock=0.0, host=socket.gethostname())
    with beating(path, clock=0.0), pytest.raises(Exists, match=f"locked by process 1 on {socket.gethostname()}"):
        lock.locked(tmp_path).__enter__()


def test_a_heart_that_misses_a_beat_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = os.utime, list[int]()

    def utime(file: int, *args: object) -> None:
        if len(failed) < 2:
            failed.append(file)
            raise OSError(30, "Read-only file system")
        real(file)

    with lock.locked(tmp_path):
        monkeypatch.setattr(os, "utime", utime)
        before = (tmp_path / "run.lock").stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (tmp_path / "run.lock").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert len(failed) == 2


HOST = """
import socket, sys, time
sys.path.insert(0, sys.argv[1])
socket.gethostname = lambda: sys.argv[3]
from pathlib import Path
from sparring.cluster.runs import lock
from sparring.cluster.errors import Exists
lock._held = lambda file: True  # a shared file system whose locks end at each machine
lock.HEARTBEAT, lock.BOOT = 0.5, Path("/nowhere")
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.locked(Path(sys.argv[2])):
        print("trains", flush=True)
        sys.stdin.readline()
except Exists as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_two_machines_take_over_at_once(seed: int, tmp_path: Path) -> None:
    """One trains, the other says who does."""
    of_another(tmp_path, clock=BEHIND, host="gone")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = {h: started([sys.executable, "-c", HOST, str(CLONE), str(tmp_path), h], **pipes) for h in ("one", "two")}
    for process in both.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both.values():
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = {host: process.stdout.readline() for host, process in both.items() if process.stdout is not None}
    (winner,) = [host for host, line in said.items() if line == "trains\n"]
    (other,) = both.keys() - {winner}
    assert f"locked by process {both[winner].pid} on {winner} (last sign of life " in said[other]
