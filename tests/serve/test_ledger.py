"""Counts of several replicas, and how a stopping service learns that nothing is open."""

from __future__ import annotations

import pytest

from sparring.serve import ledger
from sparring.serve.ledger import Ledger


def test_counts_add_up_and_models_that_are_gone_disappear() -> None:
    made = Ledger()
    made.note([("GET", "/v2", 200, 0.1)] * 3, {"a": 1, "b": 2}, replica="x")
    made.note([("GET", "/v2", 200, 0.1)], {"a": 3}, replica="y")
    text = made.text().decode()
    assert 'sparring_requests_total{method="GET",route="/v2",status="200"} 4.0' in text
    assert 'sparring_model_version{model="a"} 3.0' in text
    assert 'model="b"' not in text


def test_draining_waits_for_replicas_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(ledger.time, "monotonic", lambda: now)
    made = Ledger()
    assert made.note([], {}, replica="dead", open_now=3) is False
    assert made.note([], {}, replica="x", open_now=1) is False
    assert not made.drain()
    now = 10.0  # "dead" has said nothing since
    assert made.note([], {}, replica="x", open_now=1) is True
    assert not made.drain()
    made.note([], {}, replica="x", open_now=1, stopping=True)
    assert not made.drain()
    made.note([], {}, replica="x", open_now=0, stopping=True)
    assert made.drain()
