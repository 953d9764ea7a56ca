"""A copy of the run elsewhere: what is committed arrives whole, and another machine goes on from it to the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster import launch
from cluster.controller import Controller
from cluster.errors import UsageError
from cluster.mirror import Mirror
from cluster.run_folder import RunFolder
from tests.helpers import bytes_of, small


class Gone(Exception):
    """The machine and its disk."""


def test_another_machine_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = launch.train(small("mat", team="local"), runs_dir=tmp_path / "a", name="run", quiet=True)
    config = small("mat", team="local", mirror=(tmp_path / "mirror").as_uri())
    real = Controller._collect

    def collect(controller: Controller) -> None:
        real(controller)
        if controller.checkpoints.committed()[-1:] == [10]:
            raise Gone

    monkeypatch.setattr(Controller, "_collect", collect)
    with pytest.raises(Gone):
        launch.train(config, runs_dir=tmp_path / "b", name="run", quiet=True)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "b")
    there = Path(tmp_path / "mirror" / "run" / "checkpoints")
    assert sorted(p.parent.name for p in there.glob("*/COMMITTED")) == ["step-000005", "step-000010"]
    (there / "step-000010" / "COMMITTED").rename(there / "step-000010" / "kept")  # as if the copy had been cut off
    run = launch.train(config, runs_dir=tmp_path / "c", name="run", resume_if_exists=True, quiet=True)
    assert "continues at step 5 of 20" in (run.path / "log.txt").read_text()
    assert bytes_of(run.path) == bytes_of(undisturbed.path)
    kept = {f"step-{t:06d}" for t in RunFolder(run.path).checkpoints.committed()}
    assert {p.parent.name for p in there.glob("*/COMMITTED")} == kept
    for step in kept:
        assert not RunFolder(run.path).checkpoints.problems(int(step[5:]))
    assert Mirror(config.mirror or "", "run").pull(tmp_path / "d")
    assert RunFolder(tmp_path / "d").checkpoints.newest_whole() == (20, [])


def test_nothing_there(tmp_path: Path) -> None:
    mirror = Mirror((tmp_path / "mirror").as_uri(), "run")
    assert not mirror.pull(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_uri_that_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--mirror 'ftp://x/runs' is not a place to copy to.*Expected a URI, such as s3://"
    ):
        launch.train(small("mat", team="local", mirror="ftp://x/runs"), runs_dir=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())
