"""Monitors: each collapse is named, healthy runs raise none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.config.recipes import recipe
from sparring.cluster.errors import TrainingStopped
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.cluster.training.monitors import WINDOW, Monitors
from sparring.trainers.types import HeldOut, Metrics, Share


def feed(monitors: Monitors, losses: list[float], *, accuracy: float = 0.5) -> list[str]:
    found = []
    for t, loss in enumerate(losses):
        metrics = {"a": Metrics({"total": loss, "robust_accuracy": accuracy}, 0, {})}
        found += [alarm.name for alarm in monitors.step(t, metrics)]
    return found


def held(**values: float) -> dict[str, HeldOut]:
    return {"a": replace(HeldOut(clean=0.9, robust=0.6, own_attack=0.62, n=1000.0), **values)}


def test_exploding_loss() -> None:
    monitors = Monitors(classes=10, total=1000)
    assert feed(monitors, [2.0 - 0.01 * i for i in range(100)]) == []
    assert feed(monitors, [0.01] * WINDOW + [0.05] * WINDOW) == []  # still far below where it began
    assert feed(monitors, [1.0] * WINDOW + [9.0] * WINDOW) == ["exploding loss"]
    assert feed(monitors, [9.0] * WINDOW) == []  # said once


def test_robust_overfitting() -> None:
    monitors = Monitors(classes=10, total=1000)
    feed(monitors, [1.0] * WINDOW, accuracy=0.5)
    assert monitors.checkpoint(100, held(robust=0.50, own_attack=0.5)) == []
    feed(monitors, [1.0] * WINDOW, accuracy=0.8)
    assert monitors.checkpoint(200, held(robust=0.49, own_attack=0.5)) == []  # within noise
    alarms = monitors.checkpoint(300, held(robust=0.42, own_attack=0.5))
    assert [a.name for a in alarms] == ["robust overfitting"]
    assert not alarms[0].collapse
    assert "from 50.0% to 42.0%" in alarms[0].text


def test_chance_level_after_a_quarter_of_the_run() -> None:
    monitors = Monitors(classes=10, total=1000)
    low = held(clean=0.11, robust=0.1, own_attack=0.1)
    assert monitors.checkpoint(100, low) == []
    assert [a.name for a in monitors.checkpoint(300, low)] == ["chance level"]


ONE_STEP: dict[str, Any] = {"attack.kind": "fgsm", "attack.start": "none", "attack.eps": 0.3}


def run(tmp_path: Path, **overrides: Any) -> Path:
    settings = {"team": "local", "checkpoint.every": 40, "epochs": 20} | overrides
    return launch.train(
        recipe(settings.pop("method", "at")).replace(settings), runs_dir=tmp_path, how=Circumstances(quiet=True)
    ).path


def alarms(path: Path) -> list[str]:
    return [json.loads(line)["name"] for line in (path / "alarms.jsonl").read_text().splitlines()]


def test_fgsm_without_random_start_overfits_catastrophically(tmp_path: Path) -> None:
    path = run(tmp_path, **ONE_STEP)
    assert "catastrophic overfitting" in alarms(path)
    assert "monitor: catastrophic overfitting of model at step" in (path / "log.txt").read_text()
    held_out = [json.loads(line) for line in (path / "validation.jsonl").read_text().splitlines()]
    assert held_out[-1]["own_attack"] - held_out[-1]["robust"] > 0.15


@pytest.mark.parametrize(
    "changes",
    [
        {"attack.kind": "fgsm", "attack.start": "none"},
        {"method": "fgsm_rs", "method.step_length": 2.0, "attack.start": "none"},
    ],
    ids=["at", "fgsm_rs"],
)
def test_it_is_noticed_between_checkpoints(changes: dict[str, Any], tmp_path: Path) -> None:
    """By a look at a training batch at the end of an epoch, of epochs this short every hundred steps."""
    path = run(tmp_path, **{"attack.eps": 0.3, "checkpoint.every": 10_000} | changes)
    found = [json.loads(line) for line in (path / "alarms.jsonl").read_text().splitlines()]
    assert ("catastrophic overfitting", "model") in {(a["name"], a["agent"]) for a in found}
    assert next(a["t"] for a in found if a["name"] == "catastrophic overfitting") in (99, 199)
    looks = [
        line
        for line in map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        if "deeper_accuracy" in line["values"]
    ]
    assert [line["t"] for line in looks] == [99, 199]


def test_a_term_that_weighs_nothing_is_named_at_the_end() -> None:
    monitors = Monitors(classes=10, total=30)
    shares = {"hard": Share(0.99, 0.97), "soft": Share(0.002, 0.01), "other": Share(0.008, 0.02)}
    found = []
    for t in (9, 19, 29):
        found += monitors.step(t, {"a": Metrics({"total": 1.0}, 0, {}, shares=shares)})
        assert bool(found) == (t == 29)
    assert [(a.name, a.agent, a.collapse) for a in found] == [("faint term soft", "a", False)]
    assert "soft was 1.0% of the gradient and 0.2% of the loss (means of 3 measured steps)" in found[0].text


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.soak) for s in (1, 2))])
def test_a_healthy_run_raises_none(seed: int, tmp_path: Path) -> None:
    assert alarms(run(tmp_path, seed=seed, epochs=8)) == []


@pytest.mark.soak
def test_plain_training_raises_none(tmp_path: Path) -> None:
    """The demo's plain network: its loss falls to almost nothing, and a robust accuracy near zero is what it is."""
    config = recipe("clean").replace({"team": "local"})
    assert alarms(launch.train(config, runs_dir=tmp_path, how=Circumstances(quiet=True)).path) == []


def test_stop(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"catastrophic overfitting of model at step \d+.*Everything is saved"):
        run(tmp_path, on_collapse="stop", **ONE_STEP)
    (path,) = tmp_path.iterdir()
    assert list(path.glob("checkpoints/*/COMMITTED"))


def test_rollback_goes_on_with_half_the_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingStopped, match="catastrophic overfitting"
    ):  # this attack never recovers: three times is enough
        run(tmp_path, on_collapse="rollback", epochs=30, **ONE_STEP)
    (path,) = tmp_path.iterdir()
    log = (path / "log.txt").read_text()
    assert log.count("going on with half the learning rate") == 3
    rates = [json.loads(line)["values"]["lr"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert rates[-1] < 0.1 / 8  # also when it went back to the same checkpoint each time
    assert list(path.glob("checkpoints/*.collapsed-1"))
