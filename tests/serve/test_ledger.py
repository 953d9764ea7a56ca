"""Counts of several processes, and how a stopping service learns that nothing is open."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from sparring.agents import rollout
from sparring.serve import ledger
from sparring.serve.ledger import Ledger, Report
from sparring.serve.local import Here
from sparring.serve.seen import Seen
from sparring.serve.server import Server
from sparring.serve.settings import Settings
from tests.serve.made import pixels, published

EVENT = ("GET", "/v2", 200, 0.1)


def test_counts_add_up_and_models_that_are_gone_disappear() -> None:
    made = Ledger()
    made.note(Report("x", [EVENT] * 3, {"a": 1, "b": 2}, open_now=2))
    made.note(Report("y", [EVENT], {"a": 3}, open_now=1))
    text = made.text().decode()
    assert 'sparring_requests_total{method="GET",route="/v2",status="200"} 4.0' in text
    assert 'sparring_model_version{model="a"} 3.0' in text
    assert 'model="b"' not in text
    assert "sparring_open_requests 3.0" in text


def test_what_was_answered_is_summed() -> None:
    """Two images of an ensemble at one process, one at another."""
    made = Ledger()
    for process, rows in (("x", [[0.2, 0.8], [0.9, 0.1]]), ("y", [[0.4, 0.6]])):
        seen = Seen()
        seen.add({"probabilities": np.asarray(rows), "disagreement": np.full(len(rows), 0.5)})
        made.note(Report(process, seen={("a", 1): seen}))
    alone = Seen()
    alone.add({"probabilities": np.asarray([[1.0, 0.0]])})
    made.note(Report("x", seen={("b", 2): alone}, shadows={("b", 3, "agrees"): 4}))
    text = made.text().decode()
    assert 'sparring_confidence_sum_total{model="a",version="1"} 2.3' in text
    assert 'sparring_disagreement_sum_total{model="a",version="1"} 1.5' in text
    assert 'sparring_disagreement_sum_total{model="b"' not in text
    assert 'sparring_images_total{class="1",model="a",version="1"} 2.0' in text
    assert 'sparring_images_total{class="0",model="a",version="1"} 1.0' in text
    assert 'sparring_shadow_images_total{came="agrees",model="b",version="3"} 4.0' in text


def test_draining_waits_for_processes_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(ledger.time, "monotonic", lambda: now)
    made = Ledger()
    assert made.note(Report("dead", open_now=3)) is False
    assert made.note(Report("x", open_now=1)) is False
    assert not made.drain()
    now = 10.0  # "dead" has said nothing since
    assert made.note(Report("x", open_now=1)) is True
    assert not made.drain()
    made.note(Report("x", open_now=1, stopping=True))
    assert not made.drain()
    made.note(Report("x", open_now=0, stopping=True))
    assert made.drain()


class Slow(Here):
    """Who sums is away at first."""

    away = True

    async def note(self, report: Report) -> bool:
        if self.away:
            await asyncio.sleep(60)
        return await super().note(report)


def test_nothing_is_lost_while_who_sums_is_away(tmp_path: Path) -> None:
    """A look that ends by its time limit gives back what it took: requests, what was seen, what shadows said."""
    for seed in (0, 1):
        published(tmp_path / "m", seed=seed)
    rollout.save(tmp_path / "m", rollout.Rollout(version=1, shadow=2))
    counts = Slow()
    server = Server(Settings(models_dir=str(tmp_path)), counts=counts, attacks=None)

    async def work() -> str:
        server.came("POST")
        await server.predict("m", None, pixels(3))
        server.noted("POST", "/v2", 200, 0.1)
        await asyncio.sleep(0.5)  # the shadow answers
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.status(), 0.05)
        counts.away = False
        return (await server.metrics()).decode()

    text = asyncio.run(work())
    assert 'sparring_requests_total{method="POST",route="/v2",status="200"} 1.0' in text
    assert sum(float(n) for n in re.findall(r"sparring_images_total\{[^}]*\} ([0-9.]+)", text)) == 3
    assert sum(float(n) for n in re.findall(r"sparring_shadow_images_total\{[^}]*\} ([0-9.]+)", text)) == 3
