"""moto's server in a process of its own, and a new bucket on it behind a proxy that can break what passes.

moto lives in a folder of its own, since its dependencies are not ours: ``make clients``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs.s3.proxy import Proxy
from tests.helpers import CLONE, PATIENCE

MOTO = CLONE / ".clients" / "moto"


def serving() -> Iterator[int]:
    """The port of S3, as long as a fixture lives."""
    if not (MOTO / "moto").is_dir():
        pytest.skip("needs moto (make clients)")
    command = [sys.executable, str(Path(__file__).parent / "server.py")]
    env = {**os.environ, "PYTHONPATH": str(MOTO)}
    process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    lines = (line for line in process.stdout)
    yield int(next(line for line in lines if line.strip().isdigit()))
    process.stdin.close()
    process.wait(PATIENCE)


def emptied(server: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The bucket ``bucket``, empty, behind a proxy, as a user's environment names it."""
    for verb, path in (("POST", "moto-api/reset"), ("PUT", "bucket")):
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{server}/{path}", method=verb)).read()
    proxy = Proxy(server)
    told = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "HOME": str(home)}
    told |= {
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield proxy
    proxy.stop()
