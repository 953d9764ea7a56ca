"""Joining a cluster: why it did not work is said in a sentence."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.runtime_env import packaging
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray._private.utils import check_version_info

from sparring.cluster.errors import NoResources
from sparring.cluster.machines import session
from tests.cluster.machines.test_jobs import free_port
from tests.helpers import CLONE, PATIENCE, small_flags, started
from tests.hosts import wait_for


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch, ray_session: str) -> None:
    """Ray's own complaint about versions, which it raises while joining."""

    def refuse(**options: object) -> None:
        check_version_info({"ray_version": "2.50.0", "python_version": "3.10.1"}, "10.0.0.1:6379")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(NoResources) as caught:
        session._join(ray_session, {})
    ours = f"this process Ray {ray.__version__} on Python"
    assert f"{ray_session} runs Ray 2.50.0 on Python 3.10.1, {ours}" in str(caught.value)
    assert "pip install -e . -c constraints.txt" in str(caught.value)


def test_a_package_that_ray_refuses_is_no_missing_token(monkeypatch: pytest.MonkeyPatch, ray_session: str) -> None:
    """Ray's own complaint about a working directory that is too large, which it raises while joining."""
    monkeypatch.setattr(packaging, "GCS_STORAGE_MAX_SIZE", 1000)

    def pack(runtime_env: dict[str, Any], **options: object) -> None:
        upload_working_dir_if_needed(dict(runtime_env), include_gitignore=False, scratch_dir="/tmp")

    monkeypatch.setattr(ray, "init", pack)
    with pytest.raises(NoResources) as caught:
        session._join(ray_session, session.shipped())
    count, size = session.shipped_size()
    assert f"{ray_session} was not reached, as our code could not be packed: " in str(caught.value)
    assert re.search(r"exceeds the maximum size of [\d.]+MiB\. What is packed is agents, ", str(caught.value))
    assert f"in {CLONE}: {count} files, {size / 2**20:.1f} MiB" in str(caught.value)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:free", "nowhere", "127.0.0.1:port"])
def test_nobody_answers(address: str) -> None:
    address = address.replace("free", str(free_port()))
    with pytest.raises(NoResources, match=r"no Ray cluster answers at .*expected host:port of its head"):
        session._join(address, {})


def test_a_submitted_job_brings_no_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert session.brings_its_own(None)
    assert not session.brings_its_own("10.0.0.1:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert not session.brings_its_own(None)


def test_a_stranger_is_refused(ray_session: str, tmp_path: Path) -> None:
    """Without the cluster's token nobody gets in; the error says which variable is missing."""
    other = tmp_path / "other-token"
    other.write_text("0" * 64)
    refused = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": str(other)})
    command = [sys.executable, "-m", "sparring.cluster", "train", "mat", f"--runs-dir={tmp_path / 'runs'}"]
    drivers = [
        subprocess.Popen(
            [*command, f"--address={ray_session}"], cwd=CLONE, env=os.environ | env, stderr=subprocess.PIPE
        )
        for env in refused
    ]
    for driver in drivers:
        said = driver.communicate(timeout=PATIENCE)[1].decode()
        assert driver.returncode == 6, said
        assert "Most likely the cluster's token is not here" in said
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.soak
def test_a_ray_that_does_not_come_up(tmp_path: Path) -> None:
    """Its raylet is killed while it starts: a sentence, nothing left, and the same command begins again."""
    command = [sys.executable, "-m", "sparring.cluster", "train", "at", f"--runs-dir={tmp_path}", "--name=a"]
    command += ["--resume-if-exists", "--no-report", *small_flags(max_steps=2)]
    env = {**os.environ, "SPARRING_TEST": str(tmp_path)}
    driver = started(command, cwd=CLONE, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: begun_by(tmp_path, "/raylet/raylet"))
    os.kill(begun_by(tmp_path, "/raylet/raylet")[0], signal.SIGKILL)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 8, said
    assert "sparring: Ray did not start on this machine: " in said
    assert "the same command begins again" in said
    wait_for(lambda: not begun_by(tmp_path, ""))
    again = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert again.returncode == 0, again.stderr


def begun_by(mark: Path, word: str) -> list[int]:
    """Processes with a word in their command that have inherited a mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            inherited = f"SPARRING_TEST={mark}".encode() in (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if inherited and command and word in command:
                found.append(int(entry.name))
    return sorted(found)
