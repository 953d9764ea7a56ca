"""Settings that change while a run goes on, and answers that runs share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparring.agents.memo import Memo
from sparring.cluster.errors import Interrupted
from sparring.cluster.training import launch
from sparring.cluster.training.controller import Controller
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of, small

CHANGES = {10: {"method.temperature": 5.0, "optim.lr": 0.02}, 15: {"attack.steps": 4.0}}


def trained(folder: Path, name: str, method: str = "mat", **options: Any) -> dict[str, Any]:
    return bytes_of(
        launch.train(small(method, **options), runs_dir=folder, name=name, how=Circumstances(quiet=True)).path
    )


def values(run: dict[str, Any]) -> list[Any]:
    return [line[2] for line in run["metrics"]]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(tmp_path_factory.mktemp("runs"), "changed", team="local", changes=CHANGES)


def test_a_change_holds_from_its_step(tmp_path: Path, changed: dict[str, Any]) -> None:
    plain = trained(tmp_path, "plain", team="local")
    assert values(plain)[:20] == values(changed)[:20]  # two peers, ten steps
    assert values(plain)[20:] != values(changed)[20:]
    rates = {t: v["lr"] for t, _, v, _ in changed["metrics"]}
    assert rates[10] == pytest.approx(0.02 * rates[9] / small().optim.lr, rel=0.2)


def test_a_change_to_the_same_changes_nothing(tmp_path: Path) -> None:
    """Momentum, batch statistics and the method's state go over whole: MTARD's balance has a state."""
    teacher = launch.train(
        small("at", team="local", max_steps=3), runs_dir=tmp_path, name="teacher", how=Circumstances(quiet=True)
    )
    inits = {f"agents.{role}.init": str(teacher.path) for role in ("clean_teacher", "robust_teacher")}
    plain = trained(tmp_path, "plain", "mtard", team="local", **inits)
    same = trained(
        tmp_path, "same", "mtard", team="local", changes={5: {"optim.lr": small("mtard", **inits).optim.lr}}, **inits
    )
    assert same["manifest"]["files"] == plain["manifest"]["files"]
    assert values(same) == values(plain)


def test_on_ray_and_after_a_stop(
    pooled: None, ray_session: str, tmp_path: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(tmp_path, "ray", changes=CHANGES) == changed
    config = small(team="local", changes=CHANGES)
    real = Controller._collect

    def stop_at(t: int) -> Any:
        def collect(controller: Controller) -> None:
            oldest = controller._pending[0]
            real(controller)
            controller.stop.requested = controller.stop.requested or (oldest.kind, oldest.t) == ("step", t)

        return collect

    for t in (5, 10, 15):  # before the first change, and just where both happen
        monkeypatch.setattr(Controller, "_collect", stop_at(t))
        with pytest.raises(Interrupted):
            launch.train(
                config, runs_dir=tmp_path, name="stopped", resume_if_exists=True, how=Circumstances(quiet=True)
            )
    monkeypatch.undo()
    launch.train(config, runs_dir=tmp_path, name="stopped", resume_if_exists=True, how=Circumstances(quiet=True))
    assert bytes_of(tmp_path / "stopped") == changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({7: {"method.temperature": 2.0}}, "step 7 is not one of a checkpoint; checkpoint.every = 5"),
        ({5: {"method.temprature": 2.0}}, "did you mean 'temperature'?"),
        ({5: {"network": 2.0}}, "network cannot change during a run"),
        ({5: {"method.temperature": -1.0}}, "temperature"),
    ],
)
def test_bad_changes(changes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        small(changes=changes)


def test_changes_survive_yaml_and_json() -> None:
    from sparring.cluster.config.run_config import RunConfig

    config = small(changes=CHANGES)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_shared_answers_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that share a folder: the first fills it, the second reads it all, and both are as if there was none."""
    teacher = launch.train(
        small("at", team="local", max_steps=3), runs_dir=tmp_path, name="teacher", how=Circumstances(quiet=True)
    )
    inits = {f"agents.{role}.init": str(teacher.path) for role in ("clean_teacher", "robust_teacher")}
    plain = trained(tmp_path, "plain", "mtard", team="local", **inits)
    shared = {"team": "local", "memo": str(tmp_path / "memo"), **inits}
    assert trained(tmp_path, "first", "mtard", **shared) == plain
    real = Memo.answer

    def only_read(memo: Memo, t: int, compute: Any, *, device: Any) -> Any:
        return real(memo, t, lambda: pytest.fail(f"step {t} was computed again"), device=device)

    monkeypatch.setattr(Memo, "answer", only_read)
    assert trained(tmp_path, "second", "mtard", **shared) == plain
    monkeypatch.undo()
    other = trained(tmp_path, "seed", "mtard", **shared, seed=1)
    assert other == trained(tmp_path, "seed-alone", "mtard", team="local", seed=1, **inits)
    assert len(list((tmp_path / "memo").iterdir())) == 2  # one teacher, two seeds
