"""The head of a cluster is lost: without Redis the run says so and goes on elsewhere, with it the run waits and goes on by itself.

With Redis the command runs on a worker: what runs on the head dies with it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import CLONE, bytes_of, small, small_flags
from tests.hosts import can_make_namespaces, hosts, joined, wait_for

OPTIONS: dict[str, Any] = {"max_steps": 600, "checkpoint__every": 50, "placement__cpus_per_agent": 1}
ON_A_WORKER = """
import logging, sys
sys.path.insert(0, {clone!r})
import ray
ray.init({address!r}, _node_ip_address={worker!r}, log_to_driver=False, logging_level=logging.ERROR)
from sparring.cluster.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.soak
@pytest.mark.parametrize("redis", [False, True])
def test_the_head_is_lost(tmp_path: Path, redis: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_make_namespaces():
        pytest.skip("needs network namespaces")
    if redis and not shutil.which("redis-server"):
        pytest.skip("needs redis-server")
    if redis:  # a busy machine starts a head slowly
        monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "180")
    typed = ["train", "mat", *small_flags(**OPTIONS), "--runs-dir", str(tmp_path / "runs"), "--name=a", "--no-report"]
    typed += ["--placement.gpus-per-agent=0", "--data.cache", str(tmp_path / "cache")]
    log = tmp_path / "runs" / "a" / "log.txt"
    (tmp_path / "cache").mkdir()
    with hosts(tmp_path / "cache", redis=redis) as cluster:
        made: Any = cluster
        workers = [made.add(2), made.add(2)]
        code = ON_A_WORKER.format(clone=str(CLONE), address=made.address, worker=workers[0])
        wait_for(lambda: joined(made) == 2, seconds=180)
        process = made.run(sys.executable, "-c", code, *typed, on=workers[0])
        wait_for(
            lambda: process.poll() is not None or "checkpoint at step 100" in read(log), seconds=300, what=read(log)
        )
        assert process.poll() is None, process.communicate()
        made.kill(made.address.partition(":")[0])
        if redis:
            made.head_again()
        _, said = process.communicate(timeout=300)
    if not redis:
        assert process.returncode == 8, said
        assert f"the head of the Ray cluster at {made.address} did not answer for 40 s" in said
        resumed = launch.train(  # without a cluster
            small(**OPTIONS, team="local", data__cache=str(tmp_path / "cache"), placement__gpus_per_agent=0),
            runs_dir=tmp_path / "runs",
            name="a",
            resume_if_exists=True,
            how=Circumstances(quiet=True),
        )
        assert resumed.path == log.parent
    assert process.returncode == (0 if redis else 8), said
    assert "lost: " not in log.read_text()
    alone = small(**OPTIONS, team="local")
    whole = launch.train(alone, runs_dir=tmp_path / "runs", name="alone", how=Circumstances(quiet=True))
    assert bytes_of(log.parent) == bytes_of(whole.path)


def read(log: Path) -> str:
    """What a run has said so far."""
    return log.read_text() if log.exists() else ""
