"""Lanes over Ray: replicas that agree, the bytes of pretrain, and what happens when one is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from sparring.agents.checkpoint import load
from sparring.cluster.pretraining import pretrain
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.cluster.team.test_faults import when
from tests.conftest import Command
from tests.helpers import bytes_of, small

OPTIONS: dict[str, Any] = {"max_steps": 30, "batch_size": 60, "network": "small_cnn:width=8", "lanes": 2}


@pytest.fixture(scope="module")
def undisturbed(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lanes")
    return launch.train(small("mat", **OPTIONS), runs_dir=folder, name="run", how=Circumstances(quiet=True)).path


def test_replicas_agree(undisturbed: Path) -> None:
    """One process per agent and lane; after 30 steps only batch statistics differ between the lanes of an agent."""
    env = json.loads((undisturbed / "env.json").read_text())
    assert set(env["agents"]) == {"peer0", "peer1", "peer0/1", "peer1/1"}
    assert len({a["pid"] for a in env["agents"].values()}) == 4
    files = bytes_of(undisturbed)["manifest"]["files"]
    assert {f.rpartition("/")[2] for f in files} == {
        "model.safetensors",
        "optim.safetensors",
        "state.json",
        "buffers-1.safetensors",
    }
    from safetensors.torch import load_file

    folder = undisturbed / "checkpoints" / "step-000030" / "agents" / "peer0"
    second, first = load_file(folder / "buffers-1.safetensors"), load(folder).model
    assert any(not (second[k] == first[k]).all() for k in second)  # each has seen its own half
    metrics = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["exchange_bytes"] == 60 * (64 + 2 * 10) * 4  # both halves together


@pytest.mark.soak
@pytest.mark.parametrize(
    "sent",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="hung", marks=pytest.mark.soak)],
)
def test_a_lost_lane(sent: int, undisturbed: Path, tmp_path: Path) -> None:
    """All are made anew, go back to the last checkpoint and end in the same bytes."""
    run = tmp_path / "run"

    def strike() -> None:
        os.kill(json.loads((run / "env.json").read_text())["agents"]["peer1/1"]["pid"], sent)

    watcher = when((run / "checkpoints" / "step-000010" / "COMMITTED").exists, strike)
    launch.train(
        small("mat", call_timeout=6.0, **OPTIONS), runs_dir=tmp_path, name="run", how=Circumstances(quiet=True)
    )
    watcher.join()
    log = (run / "log.txt").read_text()
    assert "lost: " in log
    assert "peer0, peer1 replaced, every agent at step 10 again" in log
    assert bytes_of(run) == bytes_of(undisturbed)


@pytest.mark.soak
def test_the_same_bytes_as_workers_of_ray_train(ray_session: str, tmp_path: Path) -> None:
    """Two lanes of one agent, as actors and as workers of TorchTrainer."""
    config = small("at", **{**OPTIONS, "max_steps": 12})
    launch.train(config, runs_dir=tmp_path, name="actors", how=Circumstances(quiet=True))
    options: dict[str, Any] = {
        "runs_dir": tmp_path,
        "models_dir": tmp_path / "models",
        "name": "workers",
        "quiet": True,
    }
    pretrain.pretrain(config, workers=2, **options)
    actors, workers = bytes_of(tmp_path / "actors"), bytes_of(tmp_path / "workers")
    for each in (actors, workers):  # the trainer's first worker counts its own bytes only
        each["metrics"] = [(t, agent, values) for t, agent, values, _ in each["metrics"]]
    assert actors == workers


def test_one_process_refuses_lanes(sparring: Command) -> None:
    done = sparring("train", "mat", "--team=local", "--lanes=2")
    assert done.returncode == 2
    assert "lanes = 2 needs one process per lane and agent: --team ray, or --lanes 1" in done.stderr


def test_everything_is_given_back(undisturbed: Path) -> None:
    """No process and no placement group is left of a run."""
    agents = json.loads((undisturbed / "env.json").read_text())["agents"].values()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{a['pid']}").exists() for a in agents):
        time.sleep(0.1)
    assert not [a["pid"] for a in agents if Path(f"/proc/{a['pid']}").exists()]
    assert {g["state"] for g in ray.util.placement_group_table().values()} == {"REMOVED"}
