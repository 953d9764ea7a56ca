"""pretrain: data-parallel training by Ray Train, published with a card, and what a student makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.errors import BrokenCheckpoint, Infrastructure, NoResources, UsageError
from sparring.cluster.evaluation import certify
from sparring.cluster.machines import head, placement
from sparring.cluster.pretraining import pretrain
from sparring.cluster.pretraining.waiting import Steps
from sparring.cluster.runs.folder import RunFolder
from tests.cluster.team.test_faults import recorded, when
from tests.conftest import Command
from tests.helpers import bytes_of, small, small_flags

OPTIONS: dict[str, Any] = {"max_steps": 30, "batch_size": 60, "network": "small_cnn:width=8"}


@pytest.fixture(scope="module")
def teacher(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A robust teacher made by two workers."""
    folder = tmp_path_factory.mktemp("teacher")
    config = small("at", **OPTIONS)
    return pretrain.pretrain(config, workers=2, runs_dir=folder, models_dir=folder / "models", name="a", quiet=True)


@pytest.mark.soak
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
    many = sparring("pretrain", "at", "--workers=9")
    assert many.returncode == 6
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.soak
@pytest.mark.parametrize(
    "flags", [["--optim.lr=1e30"], ["--optim.lr=3e38", "--optim.weight-decay=100"]], ids=["loss", "weights"]
)
def test_what_is_not_finite_stops_all_workers(flags: list[str], ray_session: str, sparring: Command) -> None:
    """A loss, the same in every lane; a weight, seen by the lane that saves it."""
    done = sparring(
        "pretrain", "clean", *small_flags(max_steps=20, checkpoint__every=1), *flags, "--name=n", "--workers=2"
    )
    assert done.returncode == 7, done.stderr
    assert "training stopped itself: model: " in done.stderr


def test_damaged_checkpoints_and_small_batches(teacher: dict[str, Any], tmp_path: Path) -> None:
    """Said before a worker starts; nothing begins anew in silence."""
    shutil.copytree(teacher["run"], tmp_path / "a")
    for file in (tmp_path / "a").glob("checkpoints/step-*/agents/model/model.safetensors"):
        file.write_bytes(b"x")
    options: dict[str, Any] = {"runs_dir": tmp_path, "models_dir": tmp_path / "models", "quiet": True}
    with pytest.raises(BrokenCheckpoint, match="no whole checkpoint in"):
        pretrain.pretrain(small("at", **OPTIONS), workers=2, name="a", resume_if_exists=True, **options)
    with pytest.raises(ValueError, match="a batch of 1 examples cannot be split into 2 lanes"):
        pretrain.pretrain(small("at", **{**OPTIONS, "batch_size": 1}), workers=2, **options)
    with pytest.raises(UsageError, match="--resume-if-exists needs --name"):
        pretrain.pretrain(small("at", **OPTIONS), workers=2, resume_if_exists=True, **options)


@pytest.mark.soak
def test_a_finished_run_asked_for_again(teacher: dict[str, Any]) -> None:
    """Neither evaluated nor published a second time; resume by actors finds it complete."""
    run = Path(teacher["run"])
    options: dict[str, Any] = {"runs_dir": run.parent, "models_dir": run.parent / "models", "quiet": True}
    again = pretrain.pretrain(small("at", **OPTIONS), workers=2, name="a", resume_if_exists=True, **options)
    assert again["model"] == teacher["model"]
    assert len(list(run.glob("evaluation/*"))) == 1
    env = json.loads((run / "env.json").read_text())
    assert "default_worker" not in " ".join(env["command"])
    with pytest.raises(UsageError, match="was trained in 2 lanes"):
        certify.again(RunFolder(run), 10, 15)


def test_a_busy_cluster_is_said(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what is waited for, and how many workers there is room for; Ray Train would wait for ever, without a word."""
    import ray
    from ray.util import placement_group, remove_placement_group

    monkeypatch.setattr(placement, "WAIT", 2.0)
    whole = int(ray.cluster_resources()["CPU"])
    holds = placement_group([{"CPU": whole - 1}])
    ray.get(holds.ready())
    try:
        config = small("at", **OPTIONS, placement__cpus_per_agent=1, placement__wait=3, placement__gpus_per_agent=0)
        with pytest.raises(NoResources) as told:
            pretrain.pretrain(config, workers=2, runs_dir=tmp_path, models_dir=tmp_path / "models", name="a")
    finally:
        remove_placement_group(holds)
    assert "the cluster has the resources but they are in use: 2 agents need 1 CPU each" in str(told.value)
    assert str(told.value).endswith("; or begin with fewer: --workers 1")
    said = capsys.readouterr().err
    assert "waiting at most 3 s for 2 agents" in said
    assert not (tmp_path / "a").exists()  # its name is free again


def test_no_step_is_noticed(tmp_path: Path) -> None:
    """Whatever hangs: Ray Train's controller is no worker of ours."""
    steps = Steps(tmp_path, 2.0)
    assert not steps.answers()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert steps.answers()
    assert not steps.answers()
    with pytest.raises(Infrastructure, match="no step was made for 2 s"), head.watched([steps]):
        time.sleep(20)
