"""A run whose folder is moved, copied, replaced or deleted while it trains: a sentence, and nothing is written to a folder not its own."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sparring.agents import checkpoint
from sparring.cluster.errors import Exists, Infrastructure
from sparring.cluster.training import launch
from sparring.cluster.training.controller import Controller
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of, small

QUIET = Circumstances(quiet=True)
CONFIG = small("mat", team="local", max_steps=8, checkpoint__every=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch.train(CONFIG, runs_dir=tmp_path_factory.mktemp("runs"), name="r", how=QUIET).path


def once_committed(monkeypatch: pytest.MonkeyPatch, what: Callable[[Path], object], *, step: int = 4) -> None:
    """Do something to the run's folder as soon as a step is committed."""
    real, done = Controller._collect, list[Path]()

    def collect(controller: Controller) -> None:
        real(controller)
        if not done and controller.checkpoints.committed()[-1:] == [step]:
            done.append(controller.folder.path)
            what(controller.folder.path)

    monkeypatch.setattr(Controller, "_collect", collect)


def tree(folder: Path) -> dict[str, str]:
    """Every file below it and its content."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("team", ["local", pytest.param("ray", marks=pytest.mark.soak)])
def test_moved(
    team: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if team == "ray":
        request.getfixturevalue("ray_session")
    runs, there = tmp_path / "runs", tmp_path / "elsewhere"
    once_committed(monkeypatch, lambda run: run.rename(there))
    with pytest.raises(Infrastructure, match=rf"r was moved to {there} while it trained.*sparring resume {there}$"):
        launch.train(CONFIG.replace({"team": team}), runs_dir=runs, name="r", how=QUIET)
    monkeypatch.undo()
    assert list(runs.iterdir()) == []
    assert bytes_of(launch.resume(there, how=QUIET).path) == bytes_of(undisturbed)


@pytest.mark.parametrize("begun", [True, False], ids=["a run", "a run without a checkpoint"])
def test_another_run_in_its_place(
    begun: bool, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def replace(run: Path) -> None:
        run.rename(tmp_path / "elsewhere")
        shutil.copytree(undisturbed, run, ignore=None if begun else shutil.ignore_patterns("checkpoints"))
        (run / "run.lock").write_text("another's")
        seen.append(tree(run))

    once_committed(monkeypatch, replace)
    with pytest.raises(Exists, match=rf"was moved to {tmp_path / 'elsewhere'} while it trained"):
        launch.train(CONFIG, runs_dir=tmp_path / "runs", name="r", how=QUIET)
    assert tree(tmp_path / "runs" / "r") == seen[0]


def test_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once_committed(monkeypatch, shutil.rmtree)
    with pytest.raises(Infrastructure, match=r"run .*r was deleted while it trained\. .*sparring train"):
        launch.train(CONFIG, runs_dir=tmp_path / "runs", name="r", how=QUIET)
    assert list((tmp_path / "runs").iterdir()) == []


def test_copied(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both come to the same end, each in its own folder."""
    once_committed(monkeypatch, lambda run: shutil.copytree(run, tmp_path / "copy"))
    run = launch.train(CONFIG, runs_dir=tmp_path / "runs", name="r", how=QUIET).path
    monkeypatch.undo()
    assert bytes_of(run) == bytes_of(undisturbed)
    assert bytes_of(launch.resume(tmp_path / "copy", how=QUIET).path) == bytes_of(undisturbed)


def test_an_agent_makes_no_folder_anew(undisturbed: Path, tmp_path: Path) -> None:
    """It writes beside the steps: the run may be gone when its turn comes."""
    folder = undisturbed / "checkpoints" / "step-000008" / "agents" / "peer0"
    state, network = checkpoint.load(folder), checkpoint.network_config(folder)
    with pytest.raises(FileNotFoundError):
        checkpoint.save(state, network, tmp_path / "gone" / "step-000008.tmp" / "agents" / "peer0")
    assert list(tmp_path.iterdir()) == []


def test_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was asleep for long finds another one's name in the lock, and leaves the run to it."""
    once_committed(monkeypatch, lambda run: (run / "run.lock").write_text('{"host": "elsewhere", "pid": 7}'))
    with pytest.raises(Exists, match=r"was taken over by process 7 on elsewhere"):
        launch.train(CONFIG, runs_dir=tmp_path / "runs", name="r", how=QUIET)
    run = tmp_path / "runs" / "r"
    assert (run / "run.lock").read_text() == '{"host": "elsewhere", "pid": 7}'
    assert not (run / "checkpoints" / "step-000006").exists()
