"""pretrain: data-parallel training by Ray Train, published with a card, and what a student makes of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cluster import pretrain
from cluster.run_folder import RunFolder
from tests.cluster.test_faults import recorded, when
from tests.conftest import Command
from tests.helpers import bytes_of, small, small_flags

OPTIONS: dict[str, Any] = {"max_steps": 30, "batch_size": 60, "network": "small_cnn:width=8"}


@pytest.fixture(scope="module")
def teacher(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A robust teacher made by two workers."""
    folder = tmp_path_factory.mktemp("teacher")
    config = small("at", **OPTIONS)
    return pretrain.pretrain(config, workers=2, runs_dir=folder, models_dir=folder / "models", name="a", quiet=True)


def test_a_killed_worker_changes_nothing(teacher: dict[str, Any], tmp_path: Path) -> None:
    """kill -9 of the second worker in mid-epoch: the group starts again and ends in the bytes of an undisturbed run."""
    run = tmp_path / "run"

    def kill() -> None:
        os.kill(json.loads((run / "env.json").read_text())["workers"][1], signal.SIGKILL)

    watcher = when(lambda: 2 * recorded(run) >= 12, kill)  # one agent: half as many lines
    config = small("at", **OPTIONS)
    pretrain.pretrain(config, workers=2, runs_dir=tmp_path, models_dir=tmp_path / "models", name="run", quiet=True)
    watcher.join()
    log = (run / "log.txt").read_text()
    assert log.count("lane 0 of 2") == 2
    assert "continues at step 10 of 30" in log
    assert bytes_of(run) == bytes_of(Path(teacher["run"]))
    files = set(bytes_of(run)["manifest"]["files"])
    assert "agents/model/buffers-1.safetensors" in files  # batch statistics are each lane's own


def test_its_card(teacher: dict[str, Any]) -> None:
    card = teacher["card"]
    assert card["networks"] == ["small_cnn:width=8"]
    assert card["threats"] == ["linf:0.15"]
    assert card["data"]["name"] == "digits"
    (evaluation,) = card["evaluations"]
    assert evaluation["n"] == 364
    low, high = evaluation["ci95"]
    assert low <= evaluation["robust_accuracy"] <= high <= 1
    assert card["sha256"]["model.safetensors"] == card["weights"]
    manifest = RunFolder(Path(teacher["run"])).checkpoints.manifest(card["training"]["step"])
    assert card["weights"] in manifest["files"].values()


@pytest.mark.parametrize("method", ["mtard", "mixacm"])
def test_a_students_card_names_its_teachers(
    method: str, teacher: dict[str, Any], sparring: Command, tmp_path: Path
) -> None:
    """Their sha256 and the accuracies on their cards; the teacher is said at the start."""
    roles = {"mtard": ["clean-teacher", "robust-teacher"], "mixacm": ["teacher"]}[method]
    init = [f"--agents.{role}.init={Path(teacher['model']).parent}" for role in roles]
    done = sparring("train", method, *small_flags(max_steps=3), "--team=local", "--no-report", "--name=s", *init)
    assert done.returncode == 0, done.stderr
    role = roles[-1].replace("-", "_")
    assert f"{role}: small_cnn:width=8, sha256 {teacher['card']['weights'][:12]}, right on " in done.stderr
    done = sparring("publish", "runs/s", "--as=student", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)["card"]
    assert card["teachers"][role]["sha256"] == teacher["card"]["weights"]
    assert card["teachers"][role]["measured"] == teacher["card"]["evaluations"]


def test_one_network_only(sparring: Command, tmp_path: Path) -> None:
    done = sparring("pretrain", "mat", "--workers=2")
    assert done.returncode == 2
    assert "pretrain trains one network alone; mat-digits has peer0, peer1: sparring train" in done.stderr
    assert sparring("pretrain").returncode == 2
    many = sparring("pretrain", "at", "--workers=400")
    assert many.returncode == 6
    assert not list(tmp_path.glob("runs/*"))


def test_a_nan_stops_all_workers(ray_session: str, sparring: Command) -> None:
    flags = [*small_flags(max_steps=20, checkpoint__every=1), "--optim.lr=1e30", "--name=n", "--workers=2"]
    done = sparring("pretrain", "at", *flags)
    assert done.returncode == 7, done.stderr
    assert "training stopped itself: model: " in done.stderr
