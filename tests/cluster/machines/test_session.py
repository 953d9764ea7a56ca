"""Joining a cluster: why it did not work is said in a sentence."""

from __future__ import annotations

import pytest
import ray
from ray._private.utils import check_version_info

from sparring.cluster.errors import NoResources
from sparring.cluster.machines import session
from tests.cluster.machines.test_jobs import free_port


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
