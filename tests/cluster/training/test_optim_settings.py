"""Settings of the optimiser and smoothed labels through whole runs: stopped and continued, the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.errors import Interrupted
from sparring.cluster.training import launch
from sparring.cluster.training.controller import Controller
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of, small

SHORT: dict[str, Any] = {
    "team": "local",
    "max_steps": 6,
    "checkpoint__every": 2,
    "checkpoint__attack_steps": 0,
    "attack__steps": 1,
    "optim__clip": 0.5,
    "optim__lr": 0.01,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"optim__schedule": "cosine", "optim__min_lr": 1e-3, "method__label_smoothing": 0.1},
    "adamw": {
        "optim__name": "adamw",
        "optim__betas": [0.8, 0.95],
        "optim__eps": 1e-4,
        "optim__decay": "weights",
        "optim__layer_decay": 0.5,
        "micro_batch": 20,
    },
    "lamb": {"optim__name": "lamb", "optim__decay": "weights", "optim__layer_decay": 0.5, "optim__ema": 0.5},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_and_continued(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, real = small("at", **SHORT, **SETTINGS[name]), Controller._collect

    def run(folder: str) -> Any:
        how = Circumstances(quiet=True)
        return bytes_of(launch.train(config, runs_dir=tmp_path, name=folder, resume_if_exists=True, how=how).path)

    def collect(controller: Controller) -> None:
        oldest = controller._pending[0]
        real(controller)
        controller.stop.requested = controller.stop.requested or (oldest.kind, oldest.t) == ("step", 2)

    monkeypatch.setattr(Controller, "_collect", collect)
    with pytest.raises(Interrupted):
        run("stopped")
    monkeypatch.undo()
    stopped, whole = run("stopped"), run("whole")
    assert stopped == whole
    assert all(values["gradient_norm"] > 0 for _, _, values, _ in whole["metrics"])
