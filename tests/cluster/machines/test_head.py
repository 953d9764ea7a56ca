"""The head's control service dies: a command says so, and ends, before Ray ends the process without a word."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparring.cluster.errors import Infrastructure
from sparring.cluster.machines import head
from tests.helpers import CLONE, small_flags
from tests.hosts import wait_for


def listening() -> socket.socket:
    """Something that answers at a port, as a head does."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(server,), daemon=True).start()
    return server


def _accept(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def closed(server: socket.socket) -> None:
    server.shutdown(socket.SHUT_RDWR)  # or the thread that accepts would go on
    server.close()


def test_a_head_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "OWN", 0.5)
    server = listening()
    with head.watched([head.head(address(server), own=True), head.raylet(address(server))]):
        time.sleep(2.5)
    assert not head.lost()
    closed(server)


def _work(server: socket.socket) -> None:
    closed(server)
    try:
        time.sleep(20)
    except Exception:
        pytest.fail("caught as an error of the work")
    finally:
        assert head.lost()  # nothing asks Ray any more


@pytest.mark.parametrize("lost", ["own head", "another's head", "raylet"])
def test_work_is_interrupted(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Even where all errors are caught: no agent has it."""
    monkeypatch.setattr(head, "OWN", 0.5)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "0.75")
    server, other = listening(), listening()
    one, stays = address(server), address(other)
    needed = {
        "own head": [head.raylet(stays), head.head(one, own=True)],
        "another's head": [head.head(one, own=False), head.raylet(stays)],
        "raylet": [head.head(stays, own=False), head.raylet(one)],
    }
    words = {"own head": "Ray's head process on this machine", "another's head": one, "raylet": "(raylet)"}
    before = signal.getsignal(head.SIGNAL)
    with pytest.raises(Infrastructure, match="did not answer") as told, head.watched(needed[lost]):
        _work(server)
    assert not head.lost()  # another connection may be made
    assert words[lost] in str(told.value)
    closed(other)
    assert signal.getsignal(head.SIGNAL) == before


def test_a_cluster_has_most_of_rays_own_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray 2.60 ends the process after this setting's seconds; a head whose state lies in Redis may be back before."""
    assert head.head("h:1", own=False).patience == 40
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
    assert head.head("h:1", own=False).patience == 400
    assert head.head("h:1", own=True).patience == 5


def test_what_cannot_be_left_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to Ray that waits in vain, and cannot be interrupted."""
    code = f"""
import sys, time
sys.path.insert(0, {str(CLONE)!r})
from sparring.cluster.machines import head
head.OWN = head.UNWINDING = 0.2
with head.watched([head.head("127.0.0.1:9", own=True)]):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 8
    assert done.stderr.startswith("sparring: Ray's head process on this machine did not answer")


LOST = {
    "gcs_server": "Ray's head process on this machine",
    "raylet/raylet": "Ray's own process on this machine (raylet)",
}
COMMANDS = {
    "train": ["train", "mat"],
    "tune": ["tune", "at", "--trials=2", "--search.optim.lr=uniform(0.1,0.2)"],
}


@pytest.mark.soak
@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, lost: str) -> None:
    """And goes on afterwards, from what was saved."""
    monkeypatch.chdir(tmp_path)
    typed = [sys.executable, str(CLONE / "sparring.py"), *COMMANDS[command], "--name=a", "--quiet"]
    typed += small_flags(max_steps=2000, checkpoint__every=100)
    process = subprocess.Popen(typed, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(lambda: any(Path("runs/a").rglob("checkpoints/step-*/COMMITTED")), seconds=90)
    (pid,) = [pid for pid in children(process.pid) if lost in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]]
    os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 8, said
    assert f"{LOST[lost]} did not answer for 5 s" in said
    assert "Traceback" not in said
    again = subprocess.run([*typed, "--resume-if-exists"], capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again.stderr


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
