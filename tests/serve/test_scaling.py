"""Replicas by load: what a process tells of its load, what is made of it, and a service that starts from none."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from sparring.serve import scaling, waiting
from sparring.serve.scaling import OPEN, Load, wanted
from sparring.serve.settings import Limits, Settings
from tests.helpers import PATIENCE
from tests.serve import made
from tests.serve.live import clients, running


def test_load_is_a_mean_over_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten seconds one request of 3 s and two of 1 s: 0.5 are open on average, however seldom anybody looks."""
    now = 0.0
    monkeypatch.setattr(scaling.time, "monotonic", lambda: now)
    load = Load()
    for at, by in ((1.0, 1), (4.0, -1), (6.0, 2), (7.0, -2)):
        now = at
        load.changed(by)
    now = 10.0
    assert load.mean() == pytest.approx(0.5)
    now = 20.0
    assert load.mean() == 0.0


@pytest.mark.parametrize(
    ("told", "replicas"), [({}, 0.0), ({"a": 0.0}, 0.0), ({"a": 0.01}, 0.00125), ({"a": 8.0, "b": 12.0}, 2.5)]
)
def test_as_many_replicas_as_what_is_open_needs(told: dict[str, float], replicas: float) -> None:
    """Any request at all wants one: Serve rounds up."""
    context = SimpleNamespace(aggregated_metrics={OPEN: told}, config=SimpleNamespace(target_ongoing_requests=8))
    assert wanted(context) == (pytest.approx(replicas), {})


def test_none_at_all_needs_a_bound() -> None:
    with pytest.raises(ValueError, match="predictors = 0 needs max_predictors"):
        Settings(predictors=0)
    with pytest.raises(ValueError, match="nobody listens there"):
        Settings(predictors=0, max_predictors=2, grpc_port=8001)


@pytest.mark.parametrize("answers", [True, False])
def test_who_waits_too_long_for_a_replica_is_told_when_to_come_again(answers: bool) -> None:
    """Serve's proxy ends in silence when it is cancelled; its own 503 says no time."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if answers:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"unavailable"})
            return
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guarded = waiting.Waiting(proxy, Limits(seconds=0.05, retry_after=7))
    asyncio.run(guarded({"type": "http"}, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"] == b"7"
    if not answers:
        assert json.loads(sent[1]["body"]) == {"error": "no predictor was ready within 0.05 s"}


@pytest.mark.soak
def test_from_none_to_two_and_back(tmp_path: Path) -> None:
    """The first request waits for a replica, many get another one, a steady trickle keeps one, silence none; all are answered."""
    made.published(tmp_path / "models" / "robust")
    asked, pauses = made.infer(made.pixels(16)), {"many": 0.0, "few": 0.2}

    def ask(client: httpx.Client, i: int) -> bool:
        time.sleep(pauses[phase])
        return client.post("/v2/models/robust/infer", json=asked).status_code == 200

    with running(tmp_path, "--predictors=0", "--max-predictors=2", "--idle=6", "--batch=1") as service:

        def until(count: int) -> None:
            deadline = time.monotonic() + PATIENCE
            while len(service.replicas("predictor")) != count:
                assert time.monotonic() < deadline, f"{len(service.replicas('predictor'))} replicas, not {count}"
                time.sleep(0.2)

        until(0)
        listed = httpx.get(f"{service.url}/v1/models", timeout=PATIENCE).json()["models"]
        assert [model["name"] for model in listed] == ["robust"]
        loads = []
        for phase, count, replicas in (("many", 12, 2), ("few", 1, 1)):
            with clients(count, ask, service.url) as load:
                until(replicas)
                if phase == "few":
                    time.sleep(15)  # twice what takes a replica away that nobody asks
                    assert len(service.replicas("predictor")) == 1
            loads.append(load)
        until(0)
    for load in loads:
        assert load.right > 10
        assert load.failed == load.wrong == []
