"""Agents of one host behind a coordinator: one call of the driver, the same bytes, the same failures."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from sparring.cluster.team import ray_team
from sparring.cluster.team.crew import Asked, Crew
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.user import OwnCodeError
from tests.cluster.team.test_faults import OPTIONS, when
from tests.helpers import bytes_of, small

FAILS = """import torch
from torch import nn
class Sixth(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer, self.calls = nn.Linear(64, 10), 0
    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls > 5:
                raise KeyError("a name")
        return self.layer(x.flatten(1))
"""


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[Crew]:
    """Two agents are many; every crew that is made."""
    monkeypatch.setattr(ray_team, "MANY", 2)
    made: list[Crew] = []
    begin = Crew.__init__

    def noted(crew: Crew) -> None:
        begin(crew)
        made.append(crew)

    monkeypatch.setattr(Crew, "__init__", noted)
    return made


def trained(folder: Path, name: str, **options: Any) -> Path:
    return launch.train(
        small("mat", **(OPTIONS | options)), runs_dir=folder, name=name, how=Circumstances(quiet=True)
    ).path


def test_one_call_for_all(
    crews: list[Crew], pooled: None, ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Asked] = []
    real = Crew.ask

    def ask(crew: Crew, *args: Any, **same: Any) -> list[Asked]:
        asked.extend(real(crew, *args, **same))
        return asked[-1:]

    monkeypatch.setattr(Crew, "ask", ask)
    local = trained(tmp_path, "local", team="local", max_steps=20)
    direct = trained(tmp_path, "direct", exchange="direct", max_steps=20)
    assert bytes_of(direct) == bytes_of(local)
    assert asked
    assert all(one.through and len(one.names) == 2 for one in asked)


@pytest.mark.soak
@pytest.mark.parametrize("lost", ["coordinator", "agent"])
def test_a_lost_process(lost: str, crews: list[Crew], ray_session: str, tmp_path: Path) -> None:
    """Who is lost is known behind a coordinator too; with it everybody is made anew."""
    run = tmp_path / "run"

    def lose() -> None:
        if lost == "coordinator":
            ray.kill(crews[-1]._speakers[0].actor)
        else:
            os.kill(json.loads((run / "env.json").read_text())["agents"]["peer1"]["pid"], signal.SIGKILL)

    watcher = when((run / "checkpoints" / "step-000010" / "COMMITTED").exists, lose)
    trained(tmp_path, "run", exchange="direct")
    watcher.join()
    log = (run / "log.txt").read_text()
    assert ("peer0, peer1 replaced" if lost == "coordinator" else ": peer1 replaced") in log
    assert log.count("lost: ") == 1
    assert bytes_of(run) == bytes_of(trained(tmp_path, "local", team="local"))


def test_an_agents_own_error(crews: list[Crew], ray_session: str, tmp_path: Path) -> None:
    """Whoever waited for it has lost a peer, and that is not what is told."""
    nets = tmp_path / "nets.py"
    nets.write_text(FAILS)
    with pytest.raises(OwnCodeError, match=r"nets\.py, line 11: KeyError: 'a name'"):
        trained(tmp_path, "run", exchange="direct", agents__peer1__network=f"{nets}:Sixth")
    assert "lost: " not in (tmp_path / "run" / "log.txt").read_text()
