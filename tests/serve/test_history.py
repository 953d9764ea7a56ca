"""The last five minutes of a service, and what its page says of versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparring.serve import drift, history
from sparring.serve.history import KEPT, SPAN, History
from sparring.serve.ledger import Ledger, Report
from sparring.serve.seen import Seen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(history.time, "monotonic", lambda: now[0])
    return now


def test_percentiles_are_right_to_an_eighth(clock: list[float]) -> None:
    made = History()
    times = np.random.default_rng(0).lognormal(-4, 1, 5000)
    for seconds in times:
        made.answered("POST", 200, float(seconds))
    (told,) = made.told()["slices"]
    for share, key in ((50, "p50_ms"), (99, "p99_ms")):
        exact = 1000 * float(np.percentile(times, share))
        assert abs(told[key] / exact - 1) < 0.13


def test_slices(clock: list[float]) -> None:
    """Two requests, a pause of two slices, one that failed; looking counts nothing; after five minutes all is forgotten."""
    made = History()
    made.answered("POST", 200, 0.1)
    made.answered("POST", 422, 0.1)
    clock[0] += 3 * SPAN
    made.answered("POST", 503, 0.1)
    made.answered("GET", 200, 0.1)
    told = made.told()["slices"]
    assert [(s["requests"], s["failed"]) for s in told] == [(2, 0), (0, 0), (0, 0), (1, 1)]
    assert told[1]["p50_ms"] is None
    clock[0] += (KEPT + 1) * SPAN
    assert [s["requests"] for s in made.told()["slices"]] == [0]


def seen(*rows: list[float], disagreement: float | None = None) -> Seen:
    made = Seen()
    answer: dict[str, Any] = {"probabilities": np.asarray(rows)}
    if disagreement is not None:
        answer["disagreement"] = np.full(len(rows), disagreement)
    made.add(answer)
    return made


def test_what_was_seen_is_joined(clock: list[float]) -> None:
    made = Ledger()
    made.note(Report("x", seen={("a", 1): seen([0.2, 0.8], [0.9, 0.1], disagreement=0.5)}))
    clock[0] += SPAN
    made.note(Report("y", seen={("a", 1): seen([0.4, 0.6], disagreement=0.0)}, shadows={("a", 2, "agrees"): 3}))
    told = made.status()
    (row,) = told["seen"]
    assert row["images"] == 3
    assert row["confidence"] == pytest.approx(2.3 / 3)
    assert row["disagreement"] == pytest.approx(1 / 3)
    assert row["classes"] == {"1": pytest.approx(2 / 3), "0": pytest.approx(1 / 3)}
    assert row["large"] is None
    assert told["shadows"] == [{"model": "a", "version": 2, "came": "agrees", "images": 3}]


CARD: dict[str, Any] = {
    "networks": ["n", "n"],
    "classes": ["zero", "one"],
    "evaluations": [
        {
            "detector": {
                "n": 200,
                "clean_mean": 0.04,
                "clean_variance": 0.04,
                "auroc": {"one": 0.9, "all": 0.8, "adaptive": 0.6},
            }
        },
        {},
    ],
}


@pytest.mark.parametrize(
    ("mean", "images", "raised"),
    [
        (0.04, 1000, False),
        (0.04 + 3.9 * 0.2 * (1 / 1000 + 1 / 200) ** 0.5, 1000, False),
        (0.04 + 4.1 * 0.2 * (1 / 1000 + 1 / 200) ** 0.5, 1000, True),
        (0.5, 49, False),  # too few to say
        (0.5, 50, True),
    ],
)
def test_an_alarm_comes_with_all_three_figures(mean: float, images: int, raised: bool) -> None:
    found = drift.alarm(CARD, {"disagreement": mean, "images": images})
    assert found is not None
    assert found["raised"] is raised
    assert found["auroc"] == {"one": 0.9, "all": 0.8, "adaptive": 0.6}


def test_without_a_measurement_there_is_no_alarm() -> None:
    assert drift.alarm({"evaluations": []}, {"disagreement": 0.9, "images": 1000}) is None
    assert drift.alarm(CARD, {"disagreement": None, "images": 1000}) is None
    whole = CARD["evaluations"][0]["detector"]
    for odd in (
        {"n": 256},
        {**whole, "n": 49},
        {**whole, "auroc": {"one": None, "all": None, "adaptive": None}},
        {**whole, "auroc": {"one": "0.9", "all": 0.8, "adaptive": 0.6}},
        {**whole, "clean_mean": "0"},
        "high",
    ):
        assert drift.alarm({"evaluations": [{"detector": odd}]}, {"disagreement": 0.9, "images": 1000}) is None


def test_every_version_has_its_part(clock: list[float]) -> None:
    made = Ledger()
    made.note(Report("x", seen={("a", 2): seen([0.2, 0.8])}, shadows={("a", 3, "disagrees"): 1}))
    rollout = {"version": 2, "canary": 4, "share": 0.1, "shadow": 3}
    models = {"a": {"versions": dict.fromkeys((1, 2, 3, 4), CARD), "default": 2, "rollout": rollout}}
    told = drift.composed(models, made.status())
    assert [(v["version"], v["part"]) for v in told["versions"]] == [
        (1, "by number"),
        (2, "answers"),
        (3, "shadow"),
        (4, "canary, 10%"),
    ]
    assert [v["images"] for v in told["versions"]] == [0, 1, 0, 0]
    assert told["versions"][2]["shadow"] == {"disagrees": 1}
