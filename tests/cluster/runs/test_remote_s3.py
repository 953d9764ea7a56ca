"""Mirrors, runs and models on S3: moto's server in a process of its own, and between it and us a proxy that breaks what passes.

moto lives in a folder of its own, since its dependencies are not ours: ``make clients``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

import sparring
from sparring.cluster.commands.main import main
from sparring.cluster.errors import BrokenCheckpoint, Infrastructure, UsageError
from sparring.cluster.runs import copies, remote
from sparring.cluster.runs.checkpoints import Checkpoints
from sparring.cluster.runs.mirror import Mirror
from sparring.cluster.training import launch
from sparring.cluster.training.controller import Controller
from sparring.cluster.training.job import Circumstances
from tests.cluster.runs.s3 import buckets
from tests.cluster.runs.s3.proxy import Proxy
from tests.helpers import CLONE, PATIENCE, bytes_of, small, started

pytestmark = pytest.mark.soak
QUIET = Circumstances(quiet=True)
ONE_WAIT = 45.0  # seconds: three tries of five without a byte, the pauses between them, and a busy machine


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of S3."""
    yield from buckets.serving()


@pytest.fixture
def s3(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A new bucket behind a proxy, as a user's environment names it."""
    yield from buckets.emptied(server, tmp_path / "home", monkeypatch)


def mirrored(runs_dir: Path, *, max_steps: int = 10) -> Path:
    config = small("mat", team="local", max_steps=max_steps, mirror="s3://bucket/runs")
    return launch.train(config, runs_dir=runs_dir, name="run", how=QUIET).path


def leftovers() -> list[Path]:
    return [*copies.cache().rglob("*.tmp"), *copies.cache().glob("*/run/config.yaml")]


class Gone(Exception):
    """The machine and its disk."""


def test_another_machine_goes_on_from_s3(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = small("mat", team="local")
    undisturbed = launch.train(plain, runs_dir=tmp_path / "a", name="run", how=QUIET)
    config = plain.replace({"mirror": "s3://bucket/runs"})
    real = Controller._collect

    def collect(controller: Controller) -> None:
        real(controller)
        if controller.checkpoints.committed()[-1:] == [10]:
            raise Gone

    with monkeypatch.context() as patched:
        patched.setattr(Controller, "_collect", collect)
        with pytest.raises(Gone):
            launch.train(config, runs_dir=tmp_path / "b", name="run", how=QUIET)
    run = launch.train(config, runs_dir=tmp_path / "c", name="run", resume_if_exists=True, how=QUIET)
    assert "continues at step 10 of 20" in (run.path / "log.txt").read_text()
    assert bytes_of(run.path) == bytes_of(undisturbed.path) == bytes_of(Path(remote.local("s3://bucket/runs/run")))
    assert Mirror("s3://bucket/runs", "run").pull(tmp_path / "d")
    assert Checkpoints(tmp_path / "d" / "checkpoints").newest_whole() == (20, [])


def test_commands_by_uri(s3: Proxy, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment's endpoint, and by one in the URI; a model that was copied there; and nothing is written."""
    run = mirrored(tmp_path)
    version = sparring.publish(run, "robust", agent="peer0", models_dir=tmp_path / "models")
    bucket, _ = fs.FileSystem.from_uri("s3://bucket/models")
    fs.copy_files(str(version), "bucket/models/robust/1", destination_filesystem=bucket)
    s3.asked.clear()
    monkeypatch.chdir(tmp_path)
    quick = ["--attacks=clean,fgsm", "--examples=32", "--masking=0"]
    assert main(["evaluate", "s3://bucket/runs/run@peer1", *quick]) == 0
    assert main(["evaluate", "s3://bucket/models/robust", *quick]) == 0
    assert main(["runs", "--runs-dir", "s3://bucket/runs"]) == 0
    assert main(["report", "s3://bucket/runs/run", "--examples=16"]) == 0
    assert main(["publish", "s3://bucket/runs/run@peer1", "--as=mine"]) == 0
    assert main(["export", "s3://bucket/models/robust", f"--out={tmp_path / 'out'}"]) == 0
    assert {request.partition(" ")[0] for request in s3.asked} <= {"GET", "HEAD"}
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    named = f"?endpoint_override=127.0.0.1:{server}&scheme=http"
    assert main(["evaluate", f"s3://bucket/runs/run@peer0{named}", *quick]) == 0
    s3.asked.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    remote.local("s3://bucket/runs/run")
    assert not [request for request in s3.asked if ".safetensors" in request]


@pytest.mark.parametrize("fault", ["500", "503", "cut"])
def test_a_fault_that_passes_and_one_that_stays(fault: str, s3: Proxy, tmp_path: Path) -> None:
    mirrored(tmp_path)
    left = {"n": 10**6}

    def breaks(request: str) -> str:
        if request.startswith("GET") and "model.safetensors" in request and left["n"] > 0:
            left["n"] -= 1
            return fault
        return ""

    s3.fault = breaks
    with pytest.raises(
        Infrastructure, match=r"s3://bucket/runs/run/.*model.safetensors could not be read: .*repeat the command"
    ):
        remote.local("s3://bucket/runs/run")
    assert not leftovers()
    left["n"] = 1
    try:
        found = remote.local("s3://bucket/runs/run")
    except Infrastructure:  # what has begun to come is not asked for again
        assert fault == "cut"
        found = remote.local("s3://bucket/runs/run")
    assert Checkpoints(Path(found) / "checkpoints").newest_whole() == (10, [])


@pytest.mark.parametrize("part", ["list-type", "COMMITTED", "model.safetensors"])
def test_a_server_that_hangs(part: str, s3: Proxy, tmp_path: Path) -> None:
    mirrored(tmp_path)
    s3.fault = lambda request: "hang" if part in request else ""
    begun = time.monotonic()
    with pytest.raises(Infrastructure, match=r"could not be read: .*Timeout was reached"):
        remote.local("s3://bucket/runs/run")
    assert time.monotonic() - begun < ONE_WAIT
    assert not leftovers()


def test_what_a_list_leaves_out(s3: Proxy, tmp_path: Path) -> None:
    """Files are asked for by the manifest's names, steps by the list's."""
    mirrored(tmp_path)
    s3.fault = lambda request: "hide:model.safetensors" if "list-type" in request else ""
    found = Path(remote.local("s3://bucket/runs/run"))
    assert Checkpoints(found / "checkpoints").newest_whole() == (10, [])
    s3.fault = lambda request: "hide:step-000010/COMMITTED" if "list-type" in request else ""
    assert Checkpoints(Path(remote.local("s3://bucket/runs/run")) / "checkpoints").newest_whole() == (5, [])
    s3.fault = lambda request: ""
    bucket, _ = fs.FileSystem.from_uri("s3://bucket/runs")
    bucket.delete_file("bucket/runs/run/checkpoints/step-000010/MANIFEST.json")
    with pytest.raises(
        BrokenCheckpoint, match=r"s3://bucket/runs/run/checkpoints/step-000010/MANIFEST.json is missing"
    ):
        remote.local("s3://bucket/runs/run")


def test_nothing_there(s3: Proxy) -> None:
    for uri in ("s3://bucket/runs/none", "s3://no-such-bucket/runs/none"):
        with pytest.raises(UsageError, match=r"holds no run"):
            remote.local(uri)


def test_training_outlives_a_mirror_that_hangs(s3: Proxy, tmp_path: Path) -> None:
    """It hangs from the second checkpoint on: each of the two next waits once and the log says so once; then all arrives."""
    s3.fault = lambda request: "hang" if hung() else ""
    log = tmp_path / "run" / "log.txt"
    asked: list[float] = []

    def hung() -> bool:
        checkpoints = tmp_path / "run" / "checkpoints"
        at = max(
            (int(p.parent.name[5:]) for p in checkpoints.glob("step-*/COMMITTED") if p.parent.name[5:].isdigit()),
            default=0,
        )
        if 10 <= at < 20:
            asked.append(time.monotonic())
        return 10 <= at < 20

    begun = time.monotonic()
    mirrored(tmp_path, max_steps=20)
    assert asked
    assert time.monotonic() - begun < 2 * ONE_WAIT + 30
    text = log.read_text()
    assert text.count("could not be written") == 1
    assert text.count("has everything again") == 1
    assert Mirror("s3://bucket/runs", "run").pull(tmp_path / "back")
    assert Checkpoints(tmp_path / "back" / "checkpoints").newest_whole() == (20, [])


def test_a_mirror_that_does_not_answer_at_the_start(s3: Proxy, tmp_path: Path) -> None:
    s3.fault = lambda request: "503"
    with pytest.raises(Infrastructure, match=r"s3://bucket/runs/run could not be read: .*repeat the command"):
        mirrored(tmp_path / "runs")
    assert not (tmp_path / "runs" / "run").exists()  # the name is free again


def test_a_bucket_that_is_not_there_stops_no_training(s3: Proxy, tmp_path: Path) -> None:
    config = small("mat", team="local", max_steps=10, mirror="s3://no-such-bucket/runs")
    run = launch.train(config, runs_dir=tmp_path, name="run", how=QUIET)
    assert (run.path / "log.txt").read_text().count("could not be written") == 1


def test_processes_at_once(s3: Proxy, tmp_path: Path) -> None:
    mirrored(tmp_path)
    code = "import sparring; from sparring.cluster.runs import remote; print(remote.local('s3://bucket/runs/run'))"
    command = [sys.executable, "-c", code]
    processes = [started(command, stdout=subprocess.PIPE, cwd=CLONE) for _ in range(4)]
    found = {process.communicate(timeout=PATIENCE)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(found) == 1
    assert Checkpoints(Path(found.pop()) / "checkpoints").newest_whole() == (10, [])
    assert not list(copies.cache().rglob("*.tmp"))
