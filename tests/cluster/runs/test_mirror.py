"""A copy of the run elsewhere: what is committed arrives whole, and another machine goes on from it to the same bytes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.runs import remote
from sparring.cluster.runs.checkpoints import number_of
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.mirror import Mirror
from sparring.cluster.runs.run import Run
from sparring.cluster.training import launch
from sparring.cluster.training.controller import Controller
from sparring.cluster.training.job import Circumstances
from sparring.trainers.types import HeldOut
from tests.helpers import bytes_of, small


class Gone(Exception):
    """The machine and its disk."""


def test_another_machine_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = launch.train(
        small("mat", team="local"), runs_dir=tmp_path / "a", name="run", how=Circumstances(quiet=True)
    )
    config = small("mat", team="local", mirror=(tmp_path / "mirror").as_uri())
    real = Controller._collect

    def collect(controller: Controller) -> None:
        real(controller)
        if controller.checkpoints.committed()[-1:] == [10]:
            raise Gone

    monkeypatch.setattr(Controller, "_collect", collect)
    with pytest.raises(Gone):
        launch.train(config, runs_dir=tmp_path / "b", name="run", how=Circumstances(quiet=True))
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "b")
    there = Path(tmp_path / "mirror" / "run" / "checkpoints")
    assert sorted(p.parent.name for p in there.glob("*/COMMITTED")) == ["step-000005", "step-000010"]
    (there / "step-000010" / "COMMITTED").rename(there / "step-000010" / "kept")  # as if the copy had been cut off
    run = launch.train(
        config, runs_dir=tmp_path / "c", name="run", resume_if_exists=True, how=Circumstances(quiet=True)
    )
    assert "continues at step 5 of 20" in (run.path / "log.txt").read_text()
    assert bytes_of(run.path) == bytes_of(undisturbed.path)
    kept = {f"step-{t:06d}" for t in RunFolder(run.path).checkpoints.committed()}
    assert {p.parent.name for p in there.glob("*/COMMITTED")} == kept
    for step in kept:
        assert not RunFolder(run.path).checkpoints.problems(int(step[5:]))
    assert Mirror(config.mirror or "", "run").pull(tmp_path / "d")
    assert RunFolder(tmp_path / "d").checkpoints.newest_whole() == (20, [])


def test_the_copy_has_the_records_of_its_last_step(tmp_path: Path) -> None:
    """Accuracies of the newest checkpoint are there too, so a run that goes on from it misses none."""
    config = small("mat", team="local", mirror=(tmp_path / "mirror").as_uri())
    whole = launch.train(
        config.replace({"mirror": None}), runs_dir=tmp_path / "a", name="run", how=Circumstances(quiet=True)
    )
    half = launch.train(config, runs_dir=tmp_path / "b", name="run", how=Circumstances(quiet=True))
    (tmp_path / "c").mkdir()
    Mirror(config.mirror or "", "run").pull(tmp_path / "c" / "run")
    for run in (half.path, tmp_path / "c" / "run"):
        assert RunFolder(run).lines("validation.jsonl") == RunFolder(whole.path).lines("validation.jsonl")


def test_a_tracker_knows_the_run_again(tmp_path: Path) -> None:
    """On another machine it is the same run of the tracker's; what its library keeps stays here."""
    run = launch.train(
        small("at", team="local", max_steps=5), runs_dir=tmp_path / "a", name="run", how=Circumstances(quiet=True)
    )
    (run.path / "trackers" / "wandb").mkdir(parents=True)
    (run.path / "trackers" / "wandb.json").write_text('{"id": "one", "until": {}}')
    (run.path / "trackers" / "wandb" / "large").write_text("x")
    mirror = Mirror((tmp_path / "mirror").as_uri(), "run")
    mirror.push(RunFolder(run.path), lambda line: pytest.fail(line))
    assert mirror.pull(tmp_path / "b")
    kept = sorted(str(p.relative_to(tmp_path / "b")) for p in (tmp_path / "b" / "trackers").rglob("*"))
    assert kept == ["trackers/wandb.json"]


def test_no_run_overwrites_the_copy_of_another(tmp_path: Path) -> None:
    config = small("mat", team="local", max_steps=10, mirror=(tmp_path / "mirror").as_uri())
    launch.train(config, runs_dir=tmp_path / "a", name="run", how=Circumstances(quiet=True))
    kept = sorted(p.name for p in (tmp_path / "mirror" / "run" / "checkpoints").iterdir())
    with pytest.raises(Exists, match=r"holds a run already, until step-000010; .*--resume-if-exists"):
        launch.train(config, runs_dir=tmp_path / "b", name="run", how=Circumstances(quiet=True))
    assert not (tmp_path / "b" / "run").exists()
    older = launch.train(
        config.replace({"mirror": None, "max_steps": 10}),
        runs_dir=tmp_path / "c",
        name="run",
        how=Circumstances(quiet=True),
    )
    checkpoints = RunFolder(older.path).checkpoints
    checkpoints.drop_after(5)
    with pytest.raises(Exists, match=r"is ahead of .*: it has step-000010\. Move .* away"):
        launch.train(config, runs_dir=tmp_path / "c", name="run", resume_if_exists=True, how=Circumstances(quiet=True))
    other = config.replace({"seed": 1})
    launch.train(other.replace({"mirror": None}), runs_dir=tmp_path / "d", name="run", how=Circumstances(quiet=True))
    with pytest.raises(Exists, match=r"holds a run with other settings"):
        launch.train(other, runs_dir=tmp_path / "d", name="run", resume_if_exists=True, how=Circumstances(quiet=True))
    assert sorted(p.name for p in (tmp_path / "mirror" / "run" / "checkpoints").iterdir()) == kept


def test_training_outlives_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that fails once: the run says so and copies everything at its next checkpoint."""
    config = small("mat", team="local", mirror=(tmp_path / "mirror").as_uri())
    real, failed = Mirror._copy, []

    def copy(mirror: Mirror, *args: Any) -> None:
        if not failed:
            failed.append(args)
            raise OSError("no route to host")
        real(mirror, *args)

    monkeypatch.setattr(Mirror, "_copy", copy)
    run = launch.train(config, runs_dir=tmp_path / "a", name="run", how=Circumstances(quiet=True))
    assert (
        "could not be written (no route to host); once more at the next checkpoint"
        in (run.path / "log.txt").read_text()
    )
    Mirror(config.mirror or "", "run").pull(tmp_path / "b")
    assert RunFolder(tmp_path / "b").checkpoints.newest_whole() == (20, [])


def test_a_complete_run_brings_its_mirror_what_that_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its process was killed between the last commit and the copy; or the place did not answer, which is said."""
    config = small("mat", team="local", mirror=(tmp_path / "mirror").as_uri())
    real = Mirror._copy

    def copy(mirror: Mirror, source: str, *args: Any) -> None:
        if "step-000020" in source:
            raise OSError("no route to host")
        real(mirror, source, *args)

    def train() -> Path:
        how = Circumstances(quiet=True)
        return launch.train(config, runs_dir=tmp_path / "a", name="run", resume_if_exists=True, how=how).path

    monkeypatch.setattr(Mirror, "_copy", copy)
    log = (train() / "log.txt").read_text()
    assert re.search(
        r"mirror/run lacks the last checkpoint \(no route to host\); once it takes it: sparring resume .*a/run\n", log
    )
    last = tmp_path / "mirror" / "run" / "checkpoints" / "step-000020" / "COMMITTED"
    assert not last.exists()
    train()
    assert "lacks the last checkpoint" in capsys.readouterr().err
    monkeypatch.setattr(Mirror, "_copy", real)
    train()
    assert last.exists()
    assert "mirror" not in capsys.readouterr().err


def test_nothing_there(tmp_path: Path) -> None:
    mirror = Mirror((tmp_path / "mirror").as_uri(), "run")
    assert not mirror.pull(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_uri_that_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--mirror 'ftp://x/runs' is not a place to copy to.*Expected a URI, such as s3://"
    ):
        launch.train(
            small("mat", team="local", mirror="ftp://x/runs"), runs_dir=tmp_path, how=Circumstances(quiet=True)
        )
    assert not list(tmp_path.iterdir())


def test_steps_beyond_the_padding_of_their_names(tmp_path: Path) -> None:
    """A million steps: "step-1000000" comes before "step-999998" as a text, and is the newest."""
    run = launch.train(
        small("at", team="local", max_steps=2), runs_dir=tmp_path, name="run", how=Circumstances(quiet=True)
    )
    folder, mirror = RunFolder(run.path), Mirror((tmp_path / "mirror").as_uri(), "run")
    first = folder.checkpoints.path(2)
    files = json.loads((first / "MANIFEST.json").read_bytes())["files"]
    for t in (999_998, 999_999, 1_000_000, 1_000_001):
        working = folder.checkpoints.working(t)
        shutil.copytree(first / "agents", working / "agents", dirs_exist_ok=True)
        of_model = {name.removeprefix("agents/model/"): sha for name, sha in files.items()}
        folder.checkpoints.commit(
            t, working, {"model": of_model}, {"model": HeldOut(clean=0.5, robust=t / 2e6, own_attack=0.1, n=10.0)}
        )
        mirror.push(folder, lambda line: pytest.fail(line))
    wanted = [0, 2, 999_998, 999_999, 1_000_000, 1_000_001]
    assert folder.checkpoints.committed() == wanted
    assert [number_of(step) for step in mirror._steps()] == wanted
    assert folder.checkpoints.manifest(1_000_000)["previous"]["t"] == 999_999
    folder.checkpoints.prune(2)
    assert folder.checkpoints.committed() == [1_000_000, 1_000_001]
    mirror.push(folder, lambda line: pytest.fail(line))
    assert [number_of(step) for step in mirror._steps()] == [1_000_000, 1_000_001]
    assert mirror.pull(tmp_path / "there" / "run")
    there = RunFolder(tmp_path / "there" / "run")
    assert there.checkpoints.newest_whole() == (1_000_001, [])
    mirror.refuse_another(there)
    there.checkpoints.drop_after(1_000_000)
    with pytest.raises(Exists, match=r"is ahead of .*: it has step-1000001"):
        mirror.refuse_another(there)
    assert Run(Path(remote.local((tmp_path / "mirror" / "run").as_uri()))).best["model"]["step"] == 1_000_001


def test_what_else_lies_there_is_no_step(tmp_path: Path) -> None:
    """Somebody copied a run there by hand, with what a fault had set aside."""
    for name in ("step-000005", "step-000010.damaged-1", "step-x", "kept/step-000020"):
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / name / "COMMITTED").touch()
    assert Mirror(tmp_path.as_uri(), "run")._steps() == ["step-000005"]
