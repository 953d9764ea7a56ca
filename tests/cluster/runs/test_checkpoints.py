"""Commit, damage, fall back, prune."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.agents.checkpoint import write
from sparring.cluster.errors import BrokenCheckpoint
from sparring.cluster.runs.checkpoints import Checkpoints
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.types import HeldOut
from tests.helpers import bytes_of, small


def commit(c: Checkpoints, t: int, robust: float) -> None:
    working = c.working(t)
    folder = working / "agents" / "a"
    folder.mkdir(parents=True)
    files = {"a": {"model.safetensors": write(folder / "model.safetensors", f"weights {t}".encode())}}
    c.commit(t, working, files, {"a": HeldOut(clean=1.0, robust=robust, own_attack=robust, n=10.0)})


def test_best_is_strict_and_survives_pruning(tmp_path: Path) -> None:
    c = Checkpoints(tmp_path)
    for t, robust in [(0, 0.1), (10, 0.5), (20, 0.5), (30, 0.4), (40, 0.3)]:
        commit(c, t, robust)
        c.prune(keep=2)
    assert c.committed() == [10, 30, 40]
    assert json.loads((tmp_path / "best.json").read_text()) == {"a": {"step": 10, "metric": "robust", "value": 0.5}}
    assert json.loads((tmp_path / "last.json").read_text()) == {"a": {"step": 40, "metric": "robust", "value": 0.3}}


def test_unfinished_folders_do_not_exist(tmp_path: Path) -> None:
    c = Checkpoints(tmp_path)
    commit(c, 10, 0.5)
    c.working(20)
    (tmp_path / "step-000030").mkdir()  # renamed, not yet committed
    assert c.committed() == [10]
    c.drop_after(10)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["step-000010"]


def test_a_whole_checkpoint_is_replaced_only_aside(tmp_path: Path) -> None:
    c = Checkpoints(tmp_path)
    commit(c, 10, 0.5)
    commit(c, 10, 0.6)
    assert c.problems(10) == []
    assert (tmp_path / "step-000010.replaced-1" / "COMMITTED").exists()


DAMAGE = {
    "missing": ("agents/peer0/optim.safetensors", None, "step-000020/agents/peer0/optim.safetensors is missing"),
    "flipped bit": ("agents/peer1/model.safetensors", b"x", "step-000020/agents/peer1/model.safetensors is altered"),
    "state": ("agents/peer0/state.json", b" ", "step-000020/agents/peer0/state.json is altered"),
    "manifest": ("MANIFEST.json", b" ", "step-000020/MANIFEST.json is altered"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_the_newest_whole_step_taken(kind: str, tmp_path: Path) -> None:
    """The last checkpoint is damaged: resume says which file, goes back and ends in the same bytes."""
    run = launch.train(small("mat", team="local"), runs_dir=tmp_path, how=Circumstances(quiet=True)).path
    expected = bytes_of(run)
    name, extra, message = DAMAGE[kind]
    path = run / "checkpoints" / "step-000020" / name
    if extra is None:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert message in RunFolder(run).checkpoints.problems(20)[0]
    launch.resume(run, how=Circumstances(quiet=True))
    log = (run / "log.txt").read_text()
    assert f"damaged, going back: {message}" in log
    assert "at step 15 of 20" in log
    assert bytes_of(run) == expected
    assert (run / "checkpoints" / "step-000020.damaged-1").is_dir()  # nothing is thrown away


def test_no_whole_checkpoint_left(tmp_path: Path) -> None:
    run = launch.train(small("mat", team="local", max_steps=5), runs_dir=tmp_path, how=Circumstances(quiet=True)).path
    for state in run.glob("checkpoints/step-*/agents/*/state.json"):
        state.unlink()
    with pytest.raises(
        BrokenCheckpoint, match=r"no whole checkpoint in .*: step-000005/agents/peer0/state.json is missing"
    ):
        launch.resume(run, how=Circumstances(quiet=True))
