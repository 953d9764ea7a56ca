"""Who ends a client that is slow on purpose: the service for bodies, the reverse proxy of cluster/deploy for headers."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.helpers import CLONE
from tests.serve.live import Service, free_port, running

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HEADERS = 5.0  # seconds that nginx.conf gives to headers


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("needs nginx and openssl (apt-get install nginx-light openssl)")
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "token").write_text("secret")
    with running(folder, "--demo", "--token-file=token") as started:
        yield started


@pytest.fixture(scope="module")
def nginx(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """cluster/deploy/nginx.conf with its certificates, ports and folders here."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*made, "-keyout", "tls.key", "-out", "tls.crt"], cwd=folder, check=True, capture_output=True)
    text = (CLONE / "cluster" / "deploy" / "nginx.conf").read_text()
    for old, new in (
        ("/etc/sparring", str(folder)),
        ("8443", str(port)),
        ("http://127.0.0.1:8000", service.url),
        ("events {}", f"pid {folder}/pid; error_log {folder}/error.log; events {{}}"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(
        [str(NGINX), "-c", str(folder / "nginx.conf"), "-g", "daemon off;", "-e", str(folder / "start.log")]
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "start.log").read_text()
            time.sleep(0.1)
    yield port
    process.terminate()
    process.wait()


def connection(port: int, *, tls: bool) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    if not tls:
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


def seconds_until_closed(port: int, *, tls: bool, most: float) -> float:
    """How long a client is borne that sends a byte of its headers now and then."""
    started = time.monotonic()
    with connection(port, tls=tls) as s:
        s.sendall(b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        s.settimeout(0.5)
        while time.monotonic() - started < most:
            try:
                s.sendall(b"x")
                if not s.recv(1000):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - started


@pytest.mark.soak
def test_through_the_proxy(nginx: int, service: Service) -> None:
    with connection(nginx, tls=True) as s:
        s.sendall(
            b"GET /v1/models HTTP/1.1\r\nHost: any.example\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: s.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"digits-robust" in answer
    with connection(nginx, tls=True) as s:
        s.sendall(b"POST /v2 HTTP/1.1\r\nHost: any.example\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: s.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b'{"error": "the body is too large"}')


@pytest.mark.soak
def test_slow_headers(nginx: int, service: Service) -> None:
    """Serve's own proxy bears such a client on; nginx does not."""
    alone = int(service.url.rpartition(":")[2])
    assert seconds_until_closed(nginx, tls=True, most=HEADERS + 10) < HEADERS + 3
    assert seconds_until_closed(alone, tls=False, most=HEADERS + 3) >= HEADERS + 3
