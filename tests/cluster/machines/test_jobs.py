"""Submitted jobs: ``ray job submit`` to a head of this machine, twice the same job, two at once."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import CLONE, PATIENCE, bytes_of, small, small_flags, started
from tests.hosts import RAY, STORE, wait_for

OPTIONS: dict[str, Any] = {"max_steps": 60, "checkpoint__every": 10, "batch_size": 64, "network": "small_cnn:width=8"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = launch.train(
        small("mat", team="local", **OPTIONS), runs_dir=tmp_path_factory.mktemp("runs"), how=Circumstances(quiet=True)
    )
    return bytes_of(run.path)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head with the job server, under the tests' token; the job server's address."""
    port, dashboard = free_port(), free_port()
    ports = [f"--port={port}", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
    ports.append(f"--dashboard-agent-listen-port={free_port()}")  # the usual one may be another Ray's
    sizes = ["--num-cpus=4", f"--object-store-memory={STORE}", "--disable-usage-stats"]
    with (tmp_path_factory.mktemp("head") / "out").open("w") as out:
        process = subprocess.Popen(
            [*RAY, "start", "--head", *ports, *sizes, "--block"], stdout=out, stderr=out, start_new_session=True
        )
    wait_for(lambda: reachable(dashboard) or process.poll() is not None, what="the job server")
    yield f"http://127.0.0.1:{dashboard}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=PATIENCE)


def reachable(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def submit(head: str, *command: str, clone: Path = CLONE) -> subprocess.CompletedProcess[str]:
    call = [*RAY, "job", "submit", f"--address={head}", f"--working-dir={clone}", "--", *command]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=clone)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:  # the head is still starting
            return done


@pytest.mark.soak
def test_a_submitted_job(head: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """The job's own folder is all that it needs of ours; a relative folder for runs is refused, since Ray erases it."""
    base = [
        sys.executable,
        "-m",
        "sparring.cluster",
        "train",
        "mat",
        *small_flags(**OPTIONS),
        "--name=job",
        "--resume-if-exists",
    ]
    refused = submit(head, *base)
    assert refused.returncode == 1
    assert "--runs-dir runs is relative: under 'ray job submit' it lies in the job's folder" in refused.stdout
    done = submit(head, *base, f"--runs-dir={tmp_path}")
    assert done.returncode == 0, done.stdout
    assert bytes_of(tmp_path / "job") == undisturbed
    env = json.loads((tmp_path / "job" / "env.json").read_text())
    assert env["commit"] is None  # it ran from the copy that Ray made, which is no checkout
    assert "runtime_resources/working_dir_files" in env["command"][0]


def start(run: Path) -> subprocess.Popen[str]:
    flags = small_flags(**OPTIONS)
    command = ["train", "mat", *flags, f"--runs-dir={run.parent}", f"--name={run.name}", "--resume-if-exists"]
    return started(
        [sys.executable, "-m", "sparring.cluster", *command, "--no-report"],
        cwd=CLONE,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.soak
def test_the_same_job_twice(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """The second of two at once says who holds the run; after the first is killed -9, it goes on to the same bytes."""
    run = tmp_path / "run"
    first = start(run)
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 24, what="24 steps")
    first.send_signal(signal.SIGSTOP)  # it stands still, and is alive
    second = start(run)
    _, said = second.communicate(timeout=PATIENCE)
    assert second.returncode == 3, said
    assert re.search(rf"run .*run is locked by process {first.pid} on {socket.gethostname()} \(last sign of life", said)
    first.kill()
    first.wait()
    third = start(run)
    _, said = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0, said
    assert "continues at step" in said
    assert bytes_of(run) == undisturbed
    started = time.monotonic()
    fourth = start(run)  # the job is submitted once more after its end
    _, said = fourth.communicate(timeout=PATIENCE)
    assert (fourth.returncode, "is complete already" in said) == (0, True), said
    assert time.monotonic() - started < 20
